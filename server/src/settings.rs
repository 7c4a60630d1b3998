//! Settings of a daemon: files, then what was changed while it ran, then environment, then flags, each on top of the one
//! before.
//!
//! A daemon asks for every key it knows through the typed accessors. None of them fails: mistakes are collected, and
//! [`Settings::finish`] returns them all at once, each with key, value and bounds. Keys of a file that nobody asked
//! for become warnings. What was asked for, defaults included, can be printed as a properties file again.

mod changed;

pub use changed::{ChangeError, Program, UpdateError};

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
    io::Write,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use thiserror::Error;

use crate::properties;

/// Another spelling of a key: `(spelling, key)`.
pub type Alias = (&'static str, &'static str);

/// The start of the environment variables that set any key: `RAFTMQ_GRPC_SERVER_PORT` sets `grpcServerPort`.
pub const ENVIRONMENT_PREFIX: &str = "RAFTMQ_";

/// Layers of key-value pairs, and what was found wrong with them so far.
#[derive(Clone)]
pub struct Settings {
    aliases: &'static [Alias],
    environment: Environment,
    file: BTreeMap<String, Found>,
    changed: BTreeMap<String, Found>,
    /// Where what is changed is kept.
    kept_in: Option<PathBuf>,
    variables: BTreeMap<String, Found>,
    flags: BTreeMap<String, Found>,
    asked: Vec<Asked>,
    warnings: Vec<String>,
    errors: Vec<SettingError>,
}

/// Looks a variable up by name.
type Environment = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

impl fmt::Debug for Settings {
    /// Without values: some are secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = |layer: &BTreeMap<String, Found>| layer.keys().cloned().collect::<Vec<_>>();
        f.debug_struct("Settings")
            .field("file", &keys(&self.file))
            .field("changed", &keys(&self.changed))
            .field("flags", &keys(&self.flags))
            .finish_non_exhaustive()
    }
}

/// A value and where it came from.
#[derive(Debug, Clone)]
struct Found {
    value: String,
    source: String,
}

#[derive(Debug, Clone)]
struct Asked {
    key: String,
    value: Option<String>,
    source: Option<String>,
    shown: Shown,
}

/// How a value is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    Plain,
    Masked,
    Unused,
}

/// A mistake in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SettingError {
    /// A value that is not what its key takes.
    #[error("{key} = {value} ({source_name}): must be {expected}")]
    Value {
        /// The key as documented.
        key: String,
        /// As written; `***` for a secret.
        value: String,
        /// File and line, variable or flag.
        source_name: String,
        /// What is allowed, bounds included.
        expected: String,
    },
    /// A key without which the program cannot start.
    #[error("{key} is not set: must be {expected}")]
    Missing {
        /// The key as documented.
        key: String,
        /// What is allowed, bounds included.
        expected: String,
    },
    /// Two spellings of one key with different values.
    #[error("{key} and {spelling} ({source_name}) are two spellings of one key and have different values: remove one")]
    Twice {
        /// The key as documented.
        key: String,
        /// The other spelling.
        spelling: String,
        /// Where the other spelling stands.
        source_name: String,
    },
    /// A file that cannot be read.
    #[error("{path}: {reason}", path = path.display())]
    File {
        /// As given.
        path: PathBuf,
        /// From the system, or the line that cannot be parsed.
        reason: String,
    },
    /// A rule over several keys.
    #[error("{0}")]
    Rule(String),
}

/// Every mistake of a configuration, one per line.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct SettingErrors(pub Vec<SettingError>);

impl Display for SettingErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the configuration has {} mistake{}:", self.0.len(), if self.0.len() == 1 { "" } else { "s" })?;
        for error in &self.0 {
            write!(f, "\n  {error}")?;
        }
        Ok(())
    }
}

/// What the checked configuration amounts to.
#[derive(Debug, Clone)]
pub struct Effective {
    /// Lines for the log: unknown keys, keys that are accepted and do nothing.
    pub warnings: Vec<String>,
    asked: Vec<Asked>,
}

impl Settings {
    /// No layers yet. `aliases` maps other spellings to the documented keys.
    pub fn new(aliases: &'static [Alias]) -> Self {
        Self::with_environment(aliases, |name| std::env::var(name).ok())
    }

    /// As [`Settings::new`], with another environment than the process's.
    pub fn with_environment(
        aliases: &'static [Alias],
        environment: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        Self {
            aliases,
            environment: Arc::new(environment),
            file: BTreeMap::new(),
            changed: BTreeMap::new(),
            kept_in: None,
            variables: BTreeMap::new(),
            flags: BTreeMap::new(),
            asked: Vec::new(),
            warnings: Vec::new(),
            errors: Vec::new(),
        }
    }

    /// Reads a properties file; a later file wins over an earlier one, and so does a later line.
    pub fn file(&mut self, path: &Path) {
        match std::fs::read(path) {
            Ok(bytes) => match String::from_utf8(bytes) {
                Ok(text) => self.text(path, &text),
                Err(_) => self
                    .errors
                    .push(SettingError::File { path: path.to_owned(), reason: "is not UTF-8 text".to_owned() }),
            },
            Err(error) => self
                .errors
                .push(SettingError::File { path: path.to_owned(), reason: format!("cannot be read: {error}") }),
        }
    }

    /// Takes the text of a properties file as if it had been read from `path`.
    pub fn text(&mut self, path: &Path, text: &str) {
        match properties::parse(text) {
            Ok(read) => {
                for property in read {
                    let source = format!("{}:{}", path.display(), property.line);
                    self.file.insert(property.key, Found { value: property.value, source });
                }
            }
            Err(errors) => self.errors.extend(
                errors.into_iter().map(|error| SettingError::File { path: path.to_owned(), reason: error.to_string() }),
            ),
        }
    }

    /// A value from the command line, when there is one. `flag` is how the user wrote it, for messages.
    pub fn flag(&mut self, flag: &str, key: &str, value: Option<impl ToString>) {
        if let Some(value) = value {
            self.flags.insert(key.to_owned(), Found { value: value.to_string(), source: flag.to_owned() });
        }
    }

    /// `key=value` from the command line.
    pub fn assignment(&mut self, flag: &str, assignment: &str) {
        match assignment.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => {
                self.flag(flag, key.trim(), Some(value.trim()));
            }
            _ => self.errors.push(SettingError::Value {
                key: flag.to_owned(),
                value: assignment.to_owned(),
                source_name: "command line".to_owned(),
                expected: "key=value".to_owned(),
            }),
        }
    }

    /// A value from a variable with a name of its own, such as `NAMESRV_ADDR`; set and empty counts as unset.
    pub fn variable(&mut self, name: &str, key: &str) {
        if let Some(value) = (self.environment)(name) {
            self.variables.insert(key.to_owned(), Found { value, source: format!("${name}") });
        }
    }

    /// Whether somebody gave this key a value.
    pub fn is_set(&mut self, key: &str) -> bool {
        self.look_up(key).is_some()
    }

    /// A text; `None` when unset or empty.
    pub fn optional(&mut self, key: &str) -> Option<String> {
        let found = self.look_up(key);
        self.note(key, found.as_ref(), None, Shown::Plain);
        found.map(|found| found.value)
    }

    /// A text with a default.
    pub fn string(&mut self, key: &str, default: &str) -> String {
        let found = self.look_up(key);
        self.note(key, found.as_ref(), Some(default), Shown::Plain);
        found.map_or_else(|| default.to_owned(), |found| found.value)
    }

    /// A text that is never printed.
    pub fn secret(&mut self, key: &str) -> Option<String> {
        let found = self.look_up(key);
        self.note(key, found.as_ref(), None, Shown::Masked);
        found.map(|found| found.value)
    }

    /// A name and a secret in the form that RocketMQ writes them, `{"username":"…","password":"…"}`, with these two
    /// fields; never printed.
    pub fn credentials(&mut self, key: &str, fields: [&str; 2]) -> Option<(String, String)> {
        let text = self.secret(key)?;
        let read = serde_json::from_str::<BTreeMap<String, String>>(&text).ok().and_then(|mut read| {
            let [name, secret] = fields.map(|field| read.remove(field).filter(|value| !value.is_empty()));
            name.zip(secret)
        });
        if read.is_none() {
            self.wrong(key, &format!("{{\"{}\":\"…\",\"{}\":\"…\"}}", fields[0], fields[1]));
        }
        read
    }

    /// A folder or file; `~` at its start is the home folder.
    pub fn path(&mut self, key: &str, default: &str) -> PathBuf {
        let text = self.string(key, default);
        self.expand_home(&text)
    }

    /// As [`Settings::path`]; `None` when unset.
    pub fn optional_path(&mut self, key: &str) -> Option<PathBuf> {
        self.optional(key).map(|text| self.expand_home(&text))
    }

    /// A whole number (or any ordered type) within bounds, both ends included.
    pub fn number<T>(&mut self, key: &str, default: T, bounds: RangeInclusive<T>) -> T
    where
        T: FromStr + Display + PartialOrd + Clone,
    {
        let expected = format!("a number from {} to {}", bounds.start(), bounds.end());
        self.parsed(key, default, &expected, move |text| text.parse::<T>().ok().filter(|value| bounds.contains(value)))
    }

    /// As [`Settings::number`]; `None` when unset.
    pub fn optional_number<T>(&mut self, key: &str, bounds: RangeInclusive<T>) -> Option<T>
    where
        T: FromStr + Display + PartialOrd + Clone,
    {
        let expected = format!("a number from {} to {}", bounds.start(), bounds.end());
        self.optional_parsed(key, &expected, move |text| text.parse::<T>().ok().filter(|value| bounds.contains(value)))
    }

    /// `true` or `false`, in any case.
    pub fn boolean(&mut self, key: &str, default: bool) -> bool {
        self.parsed(key, default, "true or false", |text| text.to_ascii_lowercase().parse().ok())
    }

    /// One of some words, in any case.
    pub fn choice<T: Copy>(&mut self, key: &str, default: &str, choices: &[(&str, T)]) -> T {
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let expected = format!("one of {}", words.join(", "));
        let find = |text: &str| choices.iter().find(|(word, _)| word.eq_ignore_ascii_case(text));
        let (_, default_value) = find(default).expect("the default is one of the choices");
        let found = self.look_up(key);
        self.note(key, found.as_ref(), Some(default), Shown::Plain);
        match found {
            None => *default_value,
            Some(found) => match find(&found.value) {
                Some((_, value)) => *value,
                None => {
                    self.mistake(key, &found, &expected);
                    *default_value
                }
            },
        }
    }

    /// Any other type; `read` returns `None` for a value that is not `expected`.
    pub fn parsed<T: Display>(
        &mut self,
        key: &str,
        default: T,
        expected: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> T {
        let found = self.look_up(key);
        self.note(key, found.as_ref(), Some(&default.to_string()), Shown::Plain);
        match found {
            None => default,
            Some(found) => read(&found.value).unwrap_or_else(|| {
                self.mistake(key, &found, expected);
                default
            }),
        }
    }

    /// As [`Settings::parsed`]; `None` when unset or wrong.
    pub fn optional_parsed<T>(&mut self, key: &str, expected: &str, read: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let found = self.look_up(key);
        self.note(key, found.as_ref(), None, Shown::Plain);
        let found = found?;
        let value = read(&found.value);
        if value.is_none() {
            self.mistake(key, &found, expected);
        }
        value
    }

    /// Keys that are understood and change nothing here; `reason` says why, once, in the log.
    pub fn unused(&mut self, keys: &[&str], reason: &str) {
        for key in keys {
            if let Some(found) = self.look_up(key) {
                self.warnings.push(format!("{key} = {} ({}) has no effect: {reason}", found.value, found.source));
                self.note(key, Some(&found), None, Shown::Unused);
            } else {
                self.note(key, None, None, Shown::Unused);
            }
        }
    }

    /// A key that must have been set and was not, found after its accessor was called.
    pub fn missing(&mut self, key: &str, expected: &str) {
        self.errors.push(SettingError::Missing { key: key.to_owned(), expected: expected.to_owned() });
    }

    /// A value that was read and turned out wrong in the light of others.
    pub fn wrong(&mut self, key: &str, expected: &str) {
        match self.look_up(key) {
            Some(found) => self.mistake(key, &found, expected),
            None => self.missing(key, expected),
        }
    }

    /// A rule over several keys that is broken; the text names keys and values.
    pub fn rule(&mut self, text: impl Into<String>) {
        self.errors.push(SettingError::Rule(text.into()));
    }

    /// A line for the log that is no mistake.
    pub fn warn(&mut self, text: impl Into<String>) {
        self.warnings.push(text.into());
    }

    /// All mistakes, or what the configuration amounts to.
    pub fn finish(mut self) -> Result<Effective, SettingErrors> {
        for (key, found) in self.file.iter().chain(&self.changed).chain(&self.flags) {
            let key = self.documented(key);
            if self.asked.iter().any(|asked| asked.key == key) {
                continue;
            }
            let near = self.asked.iter().find(|asked| asked.key.eq_ignore_ascii_case(key));
            let hint = near.map(|near| format!("; did you mean {}?", near.key)).unwrap_or_default();
            self.warnings.push(format!("unknown key {key} ({}) is ignored{hint}", found.source));
        }
        if self.errors.is_empty() {
            Ok(Effective { warnings: self.warnings, asked: self.asked })
        } else {
            Err(SettingErrors(self.errors))
        }
    }

    fn expand_home(&self, text: &str) -> PathBuf {
        let below = text.strip_prefix('~').filter(|rest| rest.is_empty() || rest.starts_with('/'));
        match (below, (self.environment)("HOME")) {
            (Some(rest), Some(home)) => PathBuf::from(format!("{}{rest}", home.trim_end_matches('/'))),
            _ => PathBuf::from(text),
        }
    }

    fn documented<'a>(&self, key: &'a str) -> &'a str {
        self.aliases.iter().find(|(spelling, _)| *spelling == key).map_or(key, |(_, documented)| documented)
    }

    /// The value on top; empty counts as unset, as in RocketMQ's files.
    fn look_up(&mut self, key: &str) -> Option<Found> {
        let variable = format!("{ENVIRONMENT_PREFIX}{}", upper_snake(key));
        let own_variable = (self.environment)(&variable).map(|value| Found { value, source: format!("${variable}") });
        let layers = [
            self.look_up_in(&self.flags, key),
            (own_variable, None),
            self.look_up_in(&self.variables, key),
            self.look_up_in(&self.changed, key),
            self.look_up_in(&self.file, key),
        ];
        let mut top = None;
        for (found, conflict) in layers {
            if let Some(conflict) = conflict.filter(|conflict| !self.errors.contains(conflict)) {
                self.errors.push(conflict);
            }
            let found = found.map(|found| Found { value: found.value.trim().to_owned(), source: found.source });
            top = top.or(found.filter(|found| !found.value.is_empty()));
        }
        top
    }

    /// One layer's value under any spelling, and the mistake when two spellings disagree.
    fn look_up_in(&self, layer: &BTreeMap<String, Found>, key: &str) -> (Option<Found>, Option<SettingError>) {
        let mut found = layer.get(key).cloned();
        let mut conflict = None;
        for (spelling, _) in self.aliases.iter().filter(|(_, documented)| *documented == key) {
            let Some(other) = layer.get(*spelling) else { continue };
            match &found {
                Some(first) if first.value != other.value => {
                    conflict = Some(SettingError::Twice {
                        key: key.to_owned(),
                        spelling: (*spelling).to_owned(),
                        source_name: other.source.clone(),
                    });
                }
                Some(_) => {}
                None => found = Some(other.clone()),
            }
        }
        (found, conflict)
    }

    fn note(&mut self, key: &str, found: Option<&Found>, default: Option<&str>, shown: Shown) {
        if self.asked.iter().any(|asked| asked.key == key) {
            return;
        }
        let value = found.map(|found| found.value.clone()).or_else(|| default.map(str::to_owned));
        let source = found.map(|found| found.source.clone());
        self.asked.push(Asked { key: key.to_owned(), value, source, shown });
    }

    fn mistake(&mut self, key: &str, found: &Found, expected: &str) {
        let masked = self.asked.iter().any(|asked| asked.key == key && asked.shown == Shown::Masked);
        self.errors.push(SettingError::Value {
            key: key.to_owned(),
            value: if masked { "***".to_owned() } else { found.value.clone() },
            source_name: found.source.clone(),
            expected: expected.to_owned(),
        });
    }
}

impl Display for Effective {
    /// A properties file in the order the keys were asked for; unset keys and defaults are marked.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for asked in &self.asked {
            match (&asked.value, asked.shown) {
                (None, Shown::Unused) => {}
                (None, _) => writeln!(f, "# {} is not set", asked.key)?,
                (Some(_), Shown::Masked) => writeln!(f, "{}", properties::render(&asked.key, "***"))?,
                (Some(value), Shown::Unused) => writeln!(f, "# no effect: {}", properties::render(&asked.key, value))?,
                (Some(value), Shown::Plain) => writeln!(f, "{}", properties::render(&asked.key, value))?,
            }
        }
        Ok(())
    }
}

/// A key of the configuration, for whoever asks a running program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// As documented.
    pub key: String,
    /// As written, or the default; `***` for a secret that is set.
    pub value: Option<String>,
    /// File and line, variable or flag; `None` for a default.
    pub source: Option<String>,
    /// It is accepted and does nothing.
    pub unused: bool,
}

impl Effective {
    /// Every key that was asked for, in that order; an unused one only where it is set.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        let known = self.asked.iter().filter(|asked| asked.shown != Shown::Unused || asked.value.is_some());
        let entry = |asked: &Asked| Entry {
            key: asked.key.clone(),
            value: match asked.shown {
                Shown::Masked => asked.value.as_ref().map(|_| "***".to_owned()),
                Shown::Plain | Shown::Unused => asked.value.clone(),
            },
            source: asked.source.clone(),
            unused: asked.shown == Shown::Unused,
        };
        known.map(entry).collect()
    }

    /// Writes it to standard output; a reader that has seen enough (`| head`) is no error.
    pub fn print(&self) {
        let _ = std::io::stdout().write_all(self.to_string().as_bytes());
    }

    /// Where a key's value came from: file and line, variable or flag; `None` for a default or an unknown key.
    pub fn source(&self, key: &str) -> Option<&str> {
        self.asked.iter().find(|asked| asked.key == key)?.source.as_deref()
    }
}

/// `grpcServerPort` → `GRPC_SERVER_PORT`, `brokerIP1` → `BROKER_IP1`.
fn upper_snake(key: &str) -> String {
    let mut out = String::with_capacity(key.len() + 4);
    let mut previous_is_upper = true;
    for character in key.chars() {
        if character == '.' {
            out.push('_');
            previous_is_upper = true;
            continue;
        }
        if character.is_ascii_uppercase() && !previous_is_upper {
            out.push('_');
        }
        previous_is_upper = character.is_ascii_uppercase();
        out.push(character.to_ascii_uppercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Settings, upper_snake};

    const ALIASES: &[super::Alias] = &[("dLedgerGroup", "dLegerGroup")];

    fn settings(file: &str, environment: &'static [(&str, &str)]) -> Settings {
        let mut settings = Settings::with_environment(ALIASES, move |name| {
            environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        });
        settings.text(Path::new("broker.conf"), file);
        settings
    }

    #[test]
    fn layers_stand_on_each_other() {
        let environment = &[("RAFTMQ_B", "env"), ("RAFTMQ_C", "env"), ("HOME", "/home/me/")];
        let mut s = settings("a=file\nb=file\nc=file\nstore=~/data\nempty=", environment);
        s.flag("--c", "c", Some("flag"));
        s.flag("--d", "d", None::<String>);
        assert_eq!(s.string("a", "x"), "file");
        assert_eq!(s.string("b", "x"), "env");
        assert_eq!(s.string("c", "x"), "flag");
        assert_eq!(s.string("d", "x"), "x");
        assert_eq!(s.string("empty", "x"), "x");
        assert_eq!(s.path("store", "."), Path::new("/home/me/data"));
        let effective = s.finish().expect("nothing is wrong");
        assert_eq!(effective.source("a"), Some("broker.conf:1"));
        assert_eq!(effective.source("b"), Some("$RAFTMQ_B"));
        assert_eq!(effective.source("c"), Some("--c"));
        assert_eq!(effective.source("d"), None);
    }

    #[test]
    fn every_mistake_is_reported_with_key_value_and_bounds() {
        let mut s = settings("port=99999\nauto=maybe\nflush=NEVER\nid=-1", &[]);
        assert_eq!(s.number("port", 8081_u16, 1..=65535), 8081);
        assert!(s.boolean("auto", true));
        assert_eq!(s.choice("flush", "SYNC_FLUSH", &[("SYNC_FLUSH", 1), ("ASYNC_FLUSH", 2)]), 1);
        assert_eq!(s.optional_number::<u64>("id", 0..=9), None);
        s.missing("brokerName", "a name");
        s.rule("listenPort and grpcServerPort are both 8081: choose different ports");
        let text = s.finish().expect_err("six things are wrong").to_string();
        assert_eq!(
            text,
            "the configuration has 6 mistakes:\
             \n  port = 99999 (broker.conf:1): must be a number from 1 to 65535\
             \n  auto = maybe (broker.conf:2): must be true or false\
             \n  flush = NEVER (broker.conf:3): must be one of SYNC_FLUSH, ASYNC_FLUSH\
             \n  id = -1 (broker.conf:4): must be a number from 0 to 9\
             \n  brokerName is not set: must be a name\
             \n  listenPort and grpcServerPort are both 8081: choose different ports"
        );
    }

    #[test]
    fn both_spellings_are_one_key() {
        let mut s = settings("dLedgerGroup=g", &[]);
        assert_eq!(s.optional("dLegerGroup").as_deref(), Some("g"));
        assert!(s.finish().expect("nothing is wrong").warnings.is_empty());

        let mut s = settings("dLedgerGroup=g\ndLegerGroup=h", &[]);
        assert_eq!(s.optional("dLegerGroup").as_deref(), Some("h"));
        assert_eq!(s.optional("dLegerGroup").as_deref(), Some("h"));
        let errors = s.finish().expect_err("the spellings differ");
        assert_eq!(errors.0.len(), 1);
        assert!(errors.to_string().contains("dLegerGroup and dLedgerGroup (broker.conf:1) are two spellings"));
    }

    #[test]
    fn unknown_and_unused_keys_warn_and_secrets_are_masked() {
        let mut s = settings("GrpcServerPort=1\nwhatever=1\nthreads=4\npassword=hush\nname=a b", &[]);
        s.number("grpcServerPort", 8081_u16, 1..=65535);
        s.unused(&["threads", "queues"], "there is no such pool");
        assert_eq!(s.secret("password").as_deref(), Some("hush"));
        s.string("name", "");
        s.optional("group");
        let effective = s.finish().expect("nothing is wrong");
        assert_eq!(
            effective.warnings,
            [
                "threads = 4 (broker.conf:3) has no effect: there is no such pool",
                "unknown key GrpcServerPort (broker.conf:1) is ignored; did you mean grpcServerPort?",
                "unknown key whatever (broker.conf:2) is ignored",
            ]
        );
        let printed = effective.to_string();
        assert_eq!(
            printed,
            "grpcServerPort=8081\n# no effect: threads=4\npassword=***\nname=a b\n# group is not set\n"
        );
        let entries: Vec<(String, Option<String>, bool)> =
            effective.entries().into_iter().map(|entry| (entry.key, entry.value, entry.unused)).collect();
        let entry = |key: &str, value: Option<&str>, unused| (key.to_owned(), value.map(str::to_owned), unused);
        assert_eq!(
            entries,
            [
                entry("grpcServerPort", Some("8081"), false),
                entry("threads", Some("4"), true),
                entry("password", Some("***"), false),
                entry("name", Some("a b"), false),
                entry("group", None, false),
            ]
        );
    }

    #[test]
    fn files_that_cannot_be_read_are_mistakes() {
        let mut s = Settings::with_environment(&[], |_| None);
        s.file(Path::new("/nowhere/broker.conf"));
        s.text(Path::new("x.conf"), "a=\\u1");
        s.assignment("--set", "novalue");
        let text = s.finish().expect_err("nothing can be read").to_string();
        assert!(text.contains("/nowhere/broker.conf: cannot be read"), "{text}");
        assert!(text.contains("x.conf: line 1: \\u needs four hexadecimal digits"), "{text}");
        assert!(text.contains("--set = novalue (command line): must be key=value"), "{text}");
    }

    #[test]
    fn variables_are_named_after_keys() {
        for (key, variable) in [
            ("grpcServerPort", "GRPC_SERVER_PORT"),
            ("brokerIP1", "BROKER_IP1"),
            ("dLegerPeers", "D_LEGER_PEERS"),
            ("namesrvAddr", "NAMESRV_ADDR"),
        ] {
            assert_eq!(upper_snake(key), variable);
        }
    }
}
