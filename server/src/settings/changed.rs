//! What is changed while a daemon runs, and kept for its next start in a file of its own: the file that its operator
//! writes may be read-only, and is never rewritten here.

use super::{Entry, Found, SettingError, SettingErrors, Settings, upper_snake};
use crate::properties;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// The file in the daemon's folder.
const FILE: &str = "changed.properties";

/// Above what is kept.
const HEAD: &str =
    "# Written by mqadmin updateBrokerConfig; stands over the configuration file. Do not edit while the node runs.\n";

/// Why a setting cannot be changed while the daemon runs.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// A layer above would win at the next start.
    #[error(
        "{key} is set by {source_name}, which stands over what is changed here: change it there and restart the node"
    )]
    SetAbove {
        /// As documented.
        key: String,
        /// Variable or flag.
        source_name: String,
    },
    /// The file cannot be written.
    #[error("{path}: cannot be written, so nothing was changed: {reason}", path = path.display())]
    NotKept {
        /// Where it was to be kept.
        path: PathBuf,
        /// From the system.
        reason: String,
    },
}

/// Why a setting of a running program is as it was.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// There is no such key.
    #[error("unknown key {key}; {} lists those that there are{hint}", program.lists)]
    Unknown {
        /// As asked for.
        key: String,
        /// Whose setting it would be.
        program: Program,
        /// The key that was probably meant, as the end of the sentence; or nothing.
        hint: String,
    },
    /// It is accepted and does nothing.
    #[error("{0} has no effect here, whatever it is set to")]
    Unused(String),
    /// Changing it now would change nothing.
    #[error("{key} is read at start only: change it in the configuration file and restart this {}", program.name)]
    NeedsRestart {
        /// As documented.
        key: String,
        /// Whose setting it is.
        program: Program,
    },
    /// See [`ChangeError`].
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// The value is none, by itself or beside the others.
    #[error(transparent)]
    Value(#[from] SettingErrors),
}

/// A program whose settings change while it runs.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// What sentences call it.
    pub name: &'static str,
    /// The command of `mqadmin` that lists its settings.
    pub lists: &'static str,
}

impl UpdateError {
    /// Why a key that is none of those which change while `program` runs cannot be changed; `entries` are its settings.
    #[must_use]
    pub fn not_changeable(entries: &[Entry], key: &str, program: Program) -> UpdateError {
        match entries.iter().find(|entry| entry.key == key) {
            Some(entry) if entry.unused => UpdateError::Unused(key.to_owned()),
            Some(_) => UpdateError::NeedsRestart { key: key.to_owned(), program },
            None => {
                let near = entries.iter().find(|entry| entry.key.eq_ignore_ascii_case(key));
                let hint = near.map(|near| format!("; did you mean {}?", near.key)).unwrap_or_default();
                UpdateError::Unknown { key: key.to_owned(), program, hint }
            }
        }
    }
}

impl Entry {
    /// The value of a key as it is shown, if it has one.
    #[must_use]
    pub fn shown(entries: &[Entry], key: &str) -> Option<String> {
        entries.iter().find(|entry| entry.key == key).and_then(|entry| entry.value.clone())
    }
}

impl Settings {
    /// Takes what was changed while the daemon ran before, out of the folder that a key names. What stands over another
    /// value of the configuration file becomes a warning.
    pub fn changed_in(&mut self, key: &str, default: &str) {
        let folder = self.look_up(key).map_or_else(|| default.to_owned(), |found| found.value);
        let path = self.expand_home(&folder).join(FILE);
        match std::fs::read_to_string(&path) {
            Ok(text) => match properties::parse(&text) {
                Ok(read) => {
                    for property in read {
                        let source = format!("{}:{}", path.display(), property.line);
                        self.warn_of(&property.key, &property.value, &source);
                        self.changed.insert(property.key, Found { value: property.value, source });
                    }
                }
                Err(errors) => self.errors.extend(
                    errors
                        .into_iter()
                        .map(|error| SettingError::File { path: path.clone(), reason: error.to_string() }),
                ),
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                self.errors.push(SettingError::File { path: path.clone(), reason: format!("cannot be read: {error}") });
            }
        }
        self.kept_in = Some(path);
    }

    fn warn_of(&mut self, key: &str, value: &str, source: &str) {
        let Some(below) = self.file.get(key).filter(|below| below.value.trim() != value) else { return };
        // Without the values: somebody may have put a secret there.
        let text = format!("{key} ({source}) was set while the node ran and stands over what {} says", below.source);
        self.warnings.push(text);
    }

    /// Whether it was looked already for what was changed before.
    pub fn has_changes(&self) -> bool {
        self.kept_in.is_some()
    }

    /// A key as documented, of any spelling.
    pub fn spelled(&self, key: &str) -> String {
        self.documented(key).to_owned()
    }

    /// Changes a key, or with an empty value takes the change away: what the file says counts again. Not kept yet.
    ///
    /// # Errors
    /// [`ChangeError::SetAbove`].
    pub fn change(&mut self, key: &str, value: &str, source: &str) -> Result<(), ChangeError> {
        let variable = format!("{}{}", super::ENVIRONMENT_PREFIX, upper_snake(key));
        let set = (self.environment)(&variable).filter(|value| !value.trim().is_empty());
        let named = set.map(|_| format!("${variable}"));
        let above = named.or_else(|| self.look_up_in(&self.variables, key).0.map(|found| found.source));
        let above = self.look_up_in(&self.flags, key).0.map(|found| found.source).or(above);
        if let Some(source_name) = above {
            return Err(ChangeError::SetAbove { key: key.to_owned(), source_name });
        }
        if value.trim().is_empty() {
            self.changed.remove(key);
        } else {
            let found = Found { value: value.trim().to_owned(), source: source.to_owned() };
            self.changed.insert(key.to_owned(), found);
        }
        Ok(())
    }

    /// Writes what is changed, whole or not at all, and says where.
    ///
    /// # Errors
    /// [`ChangeError::NotKept`].
    pub fn keep(&self) -> Result<PathBuf, ChangeError> {
        let path = self.kept_in.clone().unwrap_or_else(|| PathBuf::from(FILE));
        let mut text = HEAD.to_owned();
        for (key, found) in &self.changed {
            text.push_str(&properties::render(key, &found.value));
            text.push('\n');
        }
        match replace(&path, &text) {
            Ok(()) => Ok(path),
            Err(error) => Err(ChangeError::NotKept { path, reason: error.to_string() }),
        }
    }
}

/// A file that holds either what it held or all of this, whenever the machine stops.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let beside = path.with_extension("properties.new");
    let mut file = std::fs::File::create(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    let folder = path.parent().map(std::fs::File::open).transpose()?;
    std::fs::rename(&beside, path)?;
    // From here on it is kept, and the next start goes by it.
    if let Some(Err(error)) = folder.map(|folder| folder.sync_all()) {
        tracing::warn!(path = %path.display(), %error, "what was changed is kept, but may not survive a loss of power");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Settings;
    use std::path::Path;

    fn settings(folder: &Path, environment: &'static [(&'static str, &'static str)]) -> Settings {
        let mut settings = Settings::with_environment(&[], move |name| {
            environment.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        });
        settings.text(Path::new("broker.conf"), &format!("store = {}\nhours = 48\nname = a\n", folder.display()));
        settings.changed_in("store", "~/store");
        settings
    }

    #[test]
    fn what_is_changed_is_there_after_a_restart_and_goes_when_it_is_taken_away() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut first = settings(folder.path(), &[]);
        first.change("hours", "72", "updateBrokerConfig").expect("nothing stands above");
        assert_eq!(first.number("hours", 1, 0..=100), 72);
        let path = first.keep().expect("it can be written");
        assert_eq!(path, folder.path().join("changed.properties"));

        let mut second = settings(folder.path(), &[]);
        assert_eq!((second.number("hours", 1, 0..=100), second.string("name", "")), (72, "a".to_owned()));
        second.change("hours", "", "updateBrokerConfig").expect("nothing stands above");
        second.keep().expect("it can be written");
        let effective = second.finish().expect("no mistakes");
        assert!(effective.warnings[0].contains("stands over what broker.conf:2 says"), "{:?}", effective.warnings);

        let mut third = settings(folder.path(), &[]);
        assert_eq!(third.number("hours", 1, 0..=100), 48);
    }

    #[test]
    fn what_environment_or_flags_say_is_changed_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut settings = settings(folder.path(), &[("RAFTMQ_HOURS", "5")]);
        settings.assignment("-D", "name=b");
        for (key, above) in [("hours", "$RAFTMQ_HOURS"), ("name", "-D")] {
            let refused = settings.change(key, "1", "updateBrokerConfig").expect_err(key).to_string();
            assert!(refused.contains(above), "{refused}");
        }
    }

    #[test]
    fn a_file_that_makes_no_sense_stops_the_start() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("changed.properties"), "=1\n").expect("it can be written");
        let refused = settings(folder.path(), &[]).finish().err().map(|errors| errors.to_string()).unwrap_or_default();
        assert!(refused.contains("changed.properties"), "{refused}");
    }
}
