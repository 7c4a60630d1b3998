//! The rules of this repository that no compiler checks: what files exist, how they start, what they may depend on.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use raftmq_tests::root;

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).expect("a file of the repository is text")
}

/// Fails with every problem at once.
#[track_caller]
fn check(rule: &str, problems: &[String]) {
    assert!(problems.is_empty(), "{rule}:\n  {}", problems.join("\n  "));
}

/// Files that git knows, or would know after `git add`.
fn files() -> Vec<PathBuf> {
    let root = root();
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(&root)
        .output()
        .expect("git is there");
    assert!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    let listing = String::from_utf8(output.stdout).expect("our file names are text");
    listing.lines().map(|line| root.join(line)).filter(|path| path.is_file()).collect()
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

#[test]
fn every_module_says_what_it_is() {
    let problems: Vec<String> = files()
        .iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .filter(|path| !read(path).starts_with("//!"))
        .map(|path| shown(path))
        .collect();
    check("a module opens with //!", &problems);
}

#[test]
fn nothing_unfinished_is_left_behind() {
    // Spelled in two parts, so that this file does not break its own rule.
    let banned = [("to", "do!("), ("unimpl", "emented!("), ("TO", "DO"), ("FIX", "ME"), ("db", "g!(")];
    let mut problems = Vec::new();
    for path in files() {
        let is_ours =
            path.extension().is_some_and(|e| ["rs", "proto", "sh", "toml", "py"].iter().any(|ours| e == *ours));
        if !is_ours {
            continue;
        }
        for (number, line) in read(&path).lines().enumerate() {
            for (first, second) in banned {
                if line.contains(&format!("{first}{second}")) {
                    problems.push(format!("{}:{}: {}", shown(&path), number + 1, line.trim()));
                }
            }
        }
    }
    check("unfinished work is an issue, not a note in the code", &problems);
}

#[test]
fn scripts_stop_at_the_first_error_and_can_be_run() {
    use std::os::unix::fs::PermissionsExt;
    let mut problems = Vec::new();
    for path in files() {
        let is_script = path.extension().is_some_and(|extension| extension == "sh") || path.ends_with(".ci/run");
        if !is_script {
            continue;
        }
        let text = read(&path);
        let mode = path.metadata().expect("it was listed").permissions().mode();
        if !text.starts_with("#!/usr/bin/env bash\n") || !text.contains("\nset -euo pipefail\n") || mode & 0o111 == 0 {
            problems.push(shown(&path));
        }
    }
    check("a script starts with #!/usr/bin/env bash, has `set -euo pipefail`, and is executable", &problems);
}

#[test]
fn every_crate_takes_the_workspace_lints() {
    let problems: Vec<String> = files()
        .iter()
        .filter(|path| path.ends_with("Cargo.toml") && !shown(path).starts_with("tests/official"))
        .filter(|path| **path != root().join("Cargo.toml"))
        .filter(|path| !read(path).contains("[lints]\nworkspace = true"))
        .map(|path| shown(path))
        .collect();
    check("a crate has [lints] workspace = true", &problems);
}

#[test]
fn what_the_documents_name_exists() {
    let makefile = read(&root().join("Makefile"));
    let mut problems = Vec::new();
    let is_document = |path: &&PathBuf| {
        shown(path) == "README.md" || (shown(path).starts_with("docs/") && shown(path).ends_with(".md"))
    };
    for document in files().iter().filter(is_document) {
        let folder = document.parent().expect("it is below the root");
        for link in links(&read(document)).iter().filter(|link| !folder.join(link).exists()) {
            problems.push(format!("{}: the link to {link} leads nowhere", shown(document)));
        }
        for word in code_words(&read(document)) {
            if let Some(target) = word.strip_prefix("make ") {
                let target = target.split_whitespace().next().unwrap_or_default();
                if !makefile.contains(&format!("\n{target}:")) {
                    problems.push(format!("{}: `{word}`: the Makefile has no such target", shown(document)));
                }
            } else if names_a_path(&word) && !root().join(&word).exists() {
                problems.push(format!("{}: `{word}` does not exist", shown(document)));
            }
        }
    }
    check("the documents name what is there", &problems);
}

/// Links and pictures that are files of ours, without the place within them.
fn links(markdown: &str) -> Vec<&str> {
    let targets = markdown.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let files = targets.filter_map(|target| target.split('#').next());
    files.filter(|file| !file.is_empty() && !file.contains("://") && !file.contains(char::is_whitespace)).collect()
}

/// What stands between backticks, and the lines of code blocks.
fn code_words(markdown: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut in_block = false;
    for line in markdown.lines() {
        if line.starts_with("```") {
            in_block = !in_block;
        } else if in_block {
            let command = line.split('#').next().unwrap_or_default().trim();
            words.push(command.to_owned());
            words.extend(command.split_whitespace().map(str::to_owned));
        } else {
            words.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    words
}

/// A word such as `broker/src/lib.rs` or `deploy/config/`, below one of our folders.
fn names_a_path(word: &str) -> bool {
    let is_plain = word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte));
    let below = word.split('/').next().is_some_and(|first| root().join(first).is_dir());
    // What begins with a slash is a page, or a place of the reader's machine.
    is_plain && word.contains('/') && !word.starts_with('/') && below && !first_is_dots(word)
}

fn first_is_dots(word: &str) -> bool {
    word.starts_with("./") || word.starts_with("../")
}

/// An operator finds an error by its text: what the handbook quotes is what programs say, and what it measures is there.
#[test]
fn the_handbook_quotes_what_programs_say() {
    let handbook = read(&root().join("docs/operations.md"));
    let of_programs = |path: &PathBuf| {
        let shown = shown(path);
        shown.ends_with(".rs") && !shown.starts_with("tests/")
    };
    let sources: String = files().iter().filter(|path| of_programs(path)).map(|path| read(path)).collect();
    let mut problems = Vec::new();
    let (_, errors) = handbook.split_once("## What a log or an answer says").expect("the chapter is there");
    for row in errors.lines().filter(|line| line.starts_with("| `")) {
        let quoted = row.split('`').nth(1).unwrap_or_default();
        if !sources.contains(quoted) {
            problems.push(format!("nothing says `{quoted}`"));
        }
    }
    let named = handbook.split(|c: char| !(c.is_ascii_lowercase() || c == '_')).filter(|w| w.starts_with("rocketmq_"));
    for name in named {
        let registered = name.trim_end_matches("_total");
        if !sources.contains(&format!("\"{registered}\"")) {
            problems.push(format!("no figure is called {name}"));
        }
    }
    check("docs/operations.md quotes what is there", &problems);
}

/// The other way round: whatever a node or a name server says at `warn` or `error` has a row, by words of its own.
#[test]
fn every_warning_has_its_row_in_the_handbook() {
    let handbook = read(&root().join("docs/operations.md"));
    let (_, errors) = handbook.split_once("## What a log or an answer says").expect("the chapter is there");
    let rows = errors.lines().filter(|line| line.starts_with("| `")).filter_map(|line| line.split('`').nth(1));
    let rows: Vec<&str> = rows.filter(|row| row.len() > 6).collect();
    let (mut problems, mut said) = (Vec::new(), 0);
    let of_nodes = |path: &&PathBuf| {
        let shown = shown(path);
        let ours = ["broker/src/", "raft-store/src/", "namesrv/src/", "server/src/"];
        shown.ends_with(".rs") && !shown.contains("/tests/") && ours.iter().any(|folder| shown.starts_with(folder))
    };
    for path in files().iter().filter(of_nodes) {
        let text = read(path);
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for call in ["tracing::warn!(", "tracing::error!("] {
            for (at, _) in text.match_indices(call) {
                let Some(words) = last_text(&text[at + call.len()..]) else { continue };
                // Of builds for tests; and what is nothing but another sentence, which has its row where it is made.
                if words.starts_with("TEST MODE") || words.starts_with('{') && words.ends_with('}') {
                    continue;
                }
                said += 1;
                if !rows.iter().any(|row| words.contains(row)) {
                    let line = text[..at].lines().count();
                    problems.push(format!("{}:{line}: {words}", shown(path)));
                }
            }
        }
    }
    assert!(said > 70, "only {said} warnings were found");
    check("docs/operations.md has a row for each warning and error", &problems);
}

/// The last text among the arguments of a macro, of which `rest` begins with the first: the sentence that it says.
fn last_text(rest: &str) -> Option<String> {
    let (mut depth, mut found, mut open) = (1, None, None::<String>);
    let mut letters = rest.chars();
    while let Some(letter) = letters.next() {
        match (&mut open, letter) {
            (Some(text), '\\') => match letters.next()? {
                // A line that goes on in the next one.
                '\n' => {
                    let blank = letters.as_str();
                    letters = blank.trim_start().chars();
                }
                escaped => text.push(escaped),
            },
            (Some(_), '"') => found = open.take(),
            (Some(text), letter) => text.push(letter),
            (None, '"') => open = Some(String::new()),
            (None, '(') => depth += 1,
            (None, ')') => {
                depth -= 1;
                if depth == 0 {
                    return found;
                }
            }
            (None, _) => {}
        }
    }
    None
}

#[test]
fn the_example_files_describe_one_group() {
    let mut groups = BTreeMap::new();
    for label in ["n0", "n1", "n2"] {
        let path = root().join(format!("deploy/config/broker-{label}.conf"));
        let properties: BTreeMap<String, String> = raftmq_server::properties::parse(&read(&path))
            .expect("an example file is good")
            .into_iter()
            .map(|property| (property.key, property.value))
            .collect();
        assert_eq!(properties["dLegerSelfId"], label, "{}", path.display());
        let own = [
            "listenPort",
            "grpcServerPort",
            "metricsPromExporterPort",
            "dLegerSelfId",
            "storePathRootDir",
            "storePathCommitLog",
        ];
        let shared: Vec<_> = properties
            .iter()
            .filter(|(key, _)| !own.contains(&key.as_str()))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        groups.insert(shared, label);
        for key in own {
            assert!(properties.contains_key(key), "{} lacks {key}", path.display());
        }
    }
    assert_eq!(groups.len(), 1, "the files differ in more than each node's own keys");
}

/// Licences that a dependency may have; any alternative of an expression is enough.
const LICENCES: &[&str] = &[
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "MIT",
    "ISC",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "Zlib",
    "BSL-1.0",
    "Unicode-3.0",
    "Unlicense",
    "CC0-1.0",
];

/// Crates that must not come in, even through others, and why.
const BANNED: &[(&str, &str)] = &[
    ("openssl-sys", "TLS is rustls: no C library to find at build or run time"),
    ("native-tls", "TLS is rustls"),
    ("aws-lc-rs", "rustls uses ring; one provider, and no cmake"),
    ("prost-build-protoc", "protox compiles the contracts; no protoc"),
    ("log4rs", "logs are tracing"),
];

/// Crates of which two versions would be two incompatible worlds.
const ONCE: &[&str] =
    &["openraft", "tokio", "tonic", "prost", "rustls", "rocksdb", "librocksdb-sys", "bytes", "hyper", "h2", "http"];

#[test]
fn dependencies_are_allowed() {
    let host = Command::new("rustc").arg("-vV").output().expect("rustc is there").stdout;
    let host = String::from_utf8(host).expect("rustc prints text");
    let host = host.lines().find_map(|line| line.strip_prefix("host: ")).expect("rustc names its host");
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", host])
        .current_dir(root())
        .output()
        .expect("cargo is there");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let packages = metadata["packages"].as_array().expect("metadata lists packages");
    assert!(packages.len() > 100, "the list is whole");

    let mut problems = Vec::new();
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in packages {
        let text = |key: &str| package[key].as_str().unwrap_or_default();
        let (name, version) = (text("name"), text("version"));
        versions.entry(name).or_default().push(version);
        if !allows(text("license")) {
            problems.push(format!("{name} {version}: licence \"{}\" is not allowed", text("license")));
        }
        if let Some((_, reason)) = BANNED.iter().find(|(banned, _)| *banned == name) {
            problems.push(format!("{name} {version} is banned: {reason}"));
        }
        let is_local = package["source"].is_null();
        if !is_local && !text("source").starts_with("registry+https://github.com/rust-lang/crates.io-index") {
            problems.push(format!("{name} {version} comes from {}, not from crates.io", text("source")));
        }
        if !is_local {
            continue;
        }
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let (on, requirement) =
                (dependency["name"].as_str().unwrap_or_default(), dependency["req"].as_str().unwrap_or_default());
            if on.starts_with("openraft") && !requirement.starts_with('=') {
                problems.push(format!("{name} needs {on} {requirement}: openraft's crates are pinned with ="));
            }
            if on.starts_with("openraft") && name != "raft-store" {
                problems.push(format!("{name} depends on {on}: only raft-store names openraft"));
            }
        }
    }
    for name in ONCE {
        if let Some(found) = versions.get(name).filter(|found| found.len() > 1) {
            problems.push(format!("{name} is there in versions {}", found.join(" and ")));
        }
    }
    check("dependencies", &problems);
}

/// Whether an SPDX expression can be met by allowed licences. `/` is the old way to write OR.
fn allows(expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let allowed = any_of(&words, &mut at);
    allowed && at == words.len()
}

fn any_of(words: &[&str], at: &mut usize) -> bool {
    let mut allowed = all_of(words, at);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        allowed |= all_of(words, at);
    }
    allowed
}

fn all_of(words: &[&str], at: &mut usize) -> bool {
    let mut allowed = one(words, at);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        allowed &= one(words, at);
    }
    allowed
}

fn one(words: &[&str], at: &mut usize) -> bool {
    let Some(word) = words.get(*at) else { return false };
    *at += 1;
    if *word == "(" {
        let allowed = any_of(words, at);
        *at += 1;
        return allowed && words.get(*at - 1) == Some(&")");
    }
    if words.get(*at) == Some(&"WITH") {
        let exception = words.get(*at + 1).copied().unwrap_or_default();
        *at += 2;
        return LICENCES.contains(&format!("{word} WITH {exception}").as_str()) || LICENCES.contains(word);
    }
    LICENCES.contains(word)
}

#[test]
fn licence_expressions_are_read() {
    for (expression, allowed) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0 AND MIT", false),
        ("MIT/Apache-2.0", true),
        ("(MIT OR GPL-3.0) AND Unicode-3.0", true),
        ("(MIT OR Apache-2.0) AND GPL-3.0", false),
        ("Apache-2.0 WITH LLVM-exception OR GPL-2.0", true),
        ("(MIT", false),
        ("", false),
    ] {
        assert_eq!(allows(expression), allowed, "{expression:?}");
    }
}
