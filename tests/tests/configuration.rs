//! Configuration as users meet it: the example files are good as they stand, environment and flags go on top of them, and
//! what `--print-config` prints is a file that says the same.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use raftmq_tests::cluster::program;
use raftmq_tests::root;

const EXAMPLES: [(&str, &str); 5] = [
    ("mqbroker", "broker-n0.conf"),
    ("mqbroker", "broker-n1.conf"),
    ("mqbroker", "broker-n2.conf"),
    ("mqnamesrv", "namesrv.conf"),
    ("raftmq-dashboard", "dashboard.conf"),
];

/// What a program prints with `--print-config`, but for comments, and whether it warned.
fn printed(name: &str, file: &Path, flags: &[&str], environment: &[(&str, &str)]) -> Result<Vec<String>> {
    let output = Command::new(program(name)?)
        .arg("-c")
        .arg(file)
        .args(flags)
        .arg("--print-config")
        .env_remove("NAMESRV_ADDR")
        .envs(environment.iter().copied())
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name} -c {}: {said}", file.display());
    ensure!(!said.contains("unknown"), "{name} -c {}: {said}", file.display());
    let text = String::from_utf8(output.stdout)?;
    Ok(text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect())
}

#[test]
fn examples_are_good_and_what_is_printed_can_be_read_back() -> Result<()> {
    let dir = tempfile::tempdir()?;
    for (name, example) in EXAMPLES {
        let file = root().join("deploy/config").join(example);
        let effective = printed(name, &file, &[], &[])?;
        // Every key of the file stands in it with its value, and what is printed prints itself.
        let properties = raftmq_server::properties::parse(&fs::read_to_string(&file)?);
        for property in properties.map_err(|mistakes| anyhow::anyhow!("{example}: {mistakes:?}"))? {
            let line = format!("{}={}", property.key, property.value);
            let unused = property.key == "sendMessageThreadPoolNums";
            ensure!(unused || effective.contains(&line), "{example}: {line} is not in\n{}", effective.join("\n"));
        }
        let copy = dir.path().join(example);
        fs::write(&copy, effective.join("\n"))?;
        ensure!(printed(name, &copy, &[], &[])? == effective, "{example}: what is printed says something else");
    }
    Ok(())
}

#[test]
fn flags_stand_above_the_environment_and_that_above_the_file() -> Result<()> {
    let file = root().join("deploy/config/broker-n0.conf");
    let environment = [("RAFTMQ_GRPC_SERVER_PORT", "8999"), ("RAFTMQ_LISTEN_PORT", "30999")];
    let effective = printed("mqbroker", &file, &["-D", "listenPort=31000"], &environment)?;
    for line in ["grpcServerPort=8999", "listenPort=31000", "brokerName=RaftNode00"] {
        ensure!(effective.iter().any(|printed| printed == line), "{line} is not in\n{}", effective.join("\n"));
    }
    Ok(())
}

/// The rows of `docs/configuration.md` for a program: key, default and what it must be as the program says, then what
/// stands there about it.
fn reference(name: &str, written: &str) -> Result<String> {
    let asked = Command::new(program(name)?).arg("--print-config").env_remove("NAMESRV_ADDR").output()?;
    let printed = String::from_utf8(asked.stdout)?;
    let keys: Vec<(&str, Option<&str>)> = printed
        .lines()
        .filter_map(|line| match line.strip_prefix("# ") {
            Some(comment) => Some((comment.strip_suffix(" is not set")?, None)),
            None => line.split_once('=').map(|(key, default)| (key, Some(default))),
        })
        .collect();
    // All values are wrong at once, and it says of each what it must be.
    let wrong = keys.iter().flat_map(|(key, _)| ["-D".to_owned(), format!("{key}=?")]);
    let refused = Command::new(program(name)?).args(wrong).env_remove("NAMESRV_ADDR").output()?;
    let refused = String::from_utf8(refused.stderr)?;
    let must_be = |key: &str| {
        let start = format!("{key} = ");
        let line = refused.lines().find(|line| line.trim_start().starts_with(&start));
        line.and_then(|line| line.split_once(": must be ")).map_or("a text", |(_, expected)| expected)
    };
    let mut rows = String::new();
    for (key, default) in keys {
        let default = default.map(|default| format!("`{default}`")).unwrap_or_default();
        let start = format!("| `{key}` | {default} | {} | ", must_be(key));
        let here = written.lines().find(|line| line.starts_with(&format!("| `{key}` | ")));
        let meaning = here.and_then(|line| line.strip_suffix(" |")?.rsplit(" | ").next()).unwrap_or_default();
        rows.push_str(&format!("{start}{meaning} |\n"));
        ensure!(!meaning.is_empty(), "docs/configuration.md does not say what {key} of {name} means");
    }
    Ok(rows)
}

/// `make docs` writes it anew, and keeps what stands there about each key.
#[test]
fn the_reference_says_what_the_programs_say() -> Result<()> {
    const HEAD: &str = "| --- | --- | --- | --- |\n";
    let path = root().join("docs/configuration.md");
    let written = fs::read_to_string(&path)?;
    let mut parts = written.split(HEAD);
    let mut text = parts.next().context("it begins with text")?.to_owned();
    for name in ["mqbroker", "mqnamesrv", "raftmq-dashboard"] {
        let part = parts.next().with_context(|| format!("no table of {name}"))?;
        let after: String = part.split_inclusive('\n').skip_while(|line| line.starts_with('|')).collect();
        text.push_str(&format!("{HEAD}{}{after}", reference(name, part)?));
    }
    if std::env::var_os("RAFTMQ_WRITE_DOCS").is_some() {
        return Ok(fs::write(&path, text)?);
    }
    ensure!(text == written, "docs/configuration.md is not what the programs say: run make docs");
    Ok(())
}
