//! Access key and secret key of the user that a tool acts for: from the environment, or from RocketMQ's `tools.yml`.

use crate::error::AdminError;
use raftmq_proto::signature::Credentials;
use std::path::{Path, PathBuf};
use tonic::metadata::MetadataMap;

/// Variables that win over the file.
const ACCESS_KEY: &str = "RAFTMQ_ACCESS_KEY";
const SECRET_KEY: &str = "RAFTMQ_SECRET_KEY";

/// `RAFTMQ_ACCESS_KEY` and `RAFTMQ_SECRET_KEY`, or else `accessKey` and `secretKey` of
/// `$ROCKETMQ_HOME/conf/tools.yml`; `None` without either.
///
/// # Errors
/// One key without the other, a file that cannot be read, or a name that no user can have.
pub fn credentials(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Credentials>, AdminError> {
    let found = find(variable)?;
    match found.as_ref().and_then(problem) {
        Some(problem) => Err(AdminError::Usage(problem)),
        None => Ok(found),
    }
}

/// Why calls cannot be signed with these keys; `None` when they can.
#[must_use]
pub fn problem(credentials: &Credentials) -> Option<String> {
    let refused = credentials.sign(&mut MetadataMap::new(), 0).is_err();
    refused.then(|| format!("the access key {:?} has characters that a header cannot have", credentials.access_key))
}

fn find(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Credentials>, AdminError> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    match (set(ACCESS_KEY), set(SECRET_KEY)) {
        (Some(access_key), Some(secret_key)) => return Ok(Some(Credentials { access_key, secret_key })),
        (None, None) => {}
        _ => return Err(AdminError::Usage(format!("{ACCESS_KEY} and {SECRET_KEY} go together: set both or neither"))),
    }
    let Some(home) = set("ROCKETMQ_HOME") else { return Ok(None) };
    let path = PathBuf::from(home).join("conf").join("tools.yml");
    match std::fs::read_to_string(&path) {
        Ok(text) => read(&path, &text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(AdminError::Usage(format!("{} cannot be read: {error}", path.display()))),
    }
}

/// The two keys at the top level of a YAML file; whatever else it holds is not looked at.
fn read(path: &Path, text: &str) -> Result<Option<Credentials>, AdminError> {
    let value = |key: &str| {
        let rest = |line: &str| line.strip_prefix(key).and_then(|rest| rest.trim_start().strip_prefix(':')).map(scalar);
        text.lines().filter_map(rest).find(|value| !value.is_empty())
    };
    match (value("accessKey"), value("secretKey")) {
        (Some(access_key), Some(secret_key)) => Ok(Some(Credentials { access_key, secret_key })),
        (None, None) => Ok(None),
        _ => Err(AdminError::Usage(format!("{} has accessKey or secretKey, not both", path.display()))),
    }
}

/// A plain or quoted scalar without what follows it.
fn scalar(text: &str) -> String {
    let text = text.trim();
    for quote in ['"', '\''] {
        if let Some(quoted) = text.strip_prefix(quote) {
            return quoted.split(quote).next().unwrap_or_default().to_owned();
        }
    }
    let plain = text.split(" #").next().unwrap_or_default();
    if plain.starts_with('#') { String::new() } else { plain.trim().to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_file(text: &str) -> Result<Option<(String, String)>, String> {
        let read = read(Path::new("tools.yml"), text).map_err(|error| error.to_string())?;
        Ok(read.map(|credentials| (credentials.access_key, credentials.secret_key)))
    }

    #[test]
    fn what_stands_in_tools_yml() {
        let both = Ok(Some(("rocketmq2".to_owned(), "12345678".to_owned())));
        assert_eq!(from_file("# tools\naccessKey: rocketmq2\nsecretKey: 12345678\n"), both);
        assert_eq!(from_file("accessKey : \"rocketmq2\"  # who\nsecretKey: '12345678'\nother:\n  - a\n"), both);
        assert_eq!(from_file("accessKey: rocketmq2 # who\r\nsecretKey:   12345678\r\n"), both);
        assert_eq!(from_file(""), Ok(None));
        assert_eq!(from_file("  accessKey: nested\n"), Ok(None));
        assert!(from_file("accessKey: a\nsecretKey: # none\n").expect_err("half").contains("not both"));
    }

    #[test]
    fn the_environment_wins() {
        let of = |pairs: &'static [(&str, &str)]| {
            credentials(|name| pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
        };
        let found = of(&[(ACCESS_KEY, "a"), (SECRET_KEY, "s"), ("ROCKETMQ_HOME", "/nowhere")]).expect("sound");
        assert_eq!(found, Some(Credentials { access_key: "a".to_owned(), secret_key: "s".to_owned() }));
        assert!(of(&[(ACCESS_KEY, "a")]).is_err());
        assert!(of(&[(ACCESS_KEY, "a/b"), (SECRET_KEY, "s")]).is_err());
        assert_eq!(of(&[("ROCKETMQ_HOME", "/nowhere")]).expect("no file is no error"), None);
        assert_eq!(of(&[]).expect("nothing"), None);
    }
}
