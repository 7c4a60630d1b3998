//! What of the files that the log's own layer does not see, RocksDB's, outlasts a power loss.
//!
//! The library in `tests/disk-journal`, preloaded into a node, writes down what the node did to them. After the node
//! was killed, [`DiskJournal::cut`] makes of its folder what a disk would have kept: of each file what was synced, and of
//! each folder the names that were there when it was synced. With a seed a disk keeps more, as disks do: some of the
//! bytes beyond, and the first few of the unsynced changes of a folder.
//!
//! It models what RocksDB does and no more: files only grow, and are renamed within their folder. Anything else is an
//! error and not a guess.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt, fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use rand::{RngExt, rngs::StdRng};

/// File name of the library.
pub const LIBRARY: &str = "libraftmq_disk_journal.so";

/// The journal of one node's folder.
#[derive(Debug, Clone)]
pub struct DiskJournal {
    root: PathBuf,
    folder: PathBuf,
}

/// What a power loss took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Loss {
    /// Bytes that were written and had not been synced, of files that are still there.
    pub bytes: u64,
    /// Files and folders that are gone.
    pub gone: usize,
    /// Files and folders that are back: their removal was not synced.
    pub back: usize,
    /// Files that are still there.
    pub kept: usize,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Loss { bytes, gone, back, kept } = self;
        write!(f, "{bytes} bytes and {gone} names are gone, {back} names are back, {kept} files were kept")
    }
}

impl DiskJournal {
    /// For the node whose folder is `root`; `folder` is ours, on the same file system.
    pub fn new(root: &Path, folder: &Path) -> Self {
        Self { root: root.to_path_buf(), folder: folder.to_path_buf() }
    }

    /// Begins anew, before a start of the node: all that is there now is durable.
    ///
    /// # Errors
    ///
    /// The folders cannot be read or written.
    pub fn begin(&self) -> Result<()> {
        self.forget()?;
        fs::create_dir_all(self.inodes())?;
        fs::create_dir_all(&self.root)?;
        let mut text = format!("mkdir\t{}\t{}\n", self.root.display(), fs::metadata(&self.root)?.ino());
        for entry in ours(&self.root)? {
            self.write_down(&entry, &mut text)?;
        }
        text.push_str(&format!("syncdir\t{}\n", fs::metadata(&self.root)?.ino()));
        Ok(fs::write(self.journal(), text)?)
    }

    /// Forgets everything, for a node whose folder was deleted.
    ///
    /// # Errors
    ///
    /// Our folder cannot be deleted.
    pub fn forget(&self) -> Result<()> {
        if self.folder.exists() {
            fs::remove_dir_all(&self.folder).with_context(|| format!("deleting {}", self.folder.display()))?;
        }
        Ok(())
    }

    fn write_down(&self, path: &Path, text: &mut String) -> Result<()> {
        let status = fs::metadata(path)?;
        if !status.is_dir() {
            let kept = self.inodes().join(status.ino().to_string());
            let what = if kept.exists() { "link" } else { "file" };
            text.push_str(&format!("{what}\t{}\t{}\n", path.display(), status.ino()));
            if what == "file" {
                fs::hard_link(path, kept)?;
                text.push_str(&format!("sync\t{}\t{}\n", status.ino(), status.len()));
            }
            return Ok(());
        }
        text.push_str(&format!("mkdir\t{}\t{}\n", path.display(), status.ino()));
        for entry in fs::read_dir(path)? {
            self.write_down(&entry?.path(), text)?;
        }
        text.push_str(&format!("syncdir\t{}\n", status.ino()));
        Ok(())
    }

    /// What the node must find in its environment.
    ///
    /// # Errors
    ///
    /// The library is not built.
    pub fn environment(&self) -> Result<Vec<(String, String)>> {
        let text = |path: &Path| path.to_str().map(str::to_owned).context("a path of ours is text");
        Ok(vec![
            ("LD_PRELOAD".into(), text(&crate::cluster::program(LIBRARY)?)?),
            ("RAFTMQ_TEST_JOURNAL".into(), text(&self.folder)?),
            ("RAFTMQ_TEST_JOURNAL_ROOT".into(), text(&self.root)?),
        ])
    }

    /// Bytes of the journal: it grows with each call.
    pub fn bytes(&self) -> u64 {
        fs::metadata(self.journal()).map_or(0, |status| status.len())
    }

    /// The call that was answered with an error, once it has been: see `RAFTMQ_TEST_JOURNAL_FAIL`.
    pub fn failed(&self) -> Option<String> {
        let text = fs::read_to_string(self.journal()).ok()?;
        text.lines().find_map(|line| line.strip_prefix("failed\t").map(|call| call.replace('\t', " of ")))
    }

    /// The power is gone: the node, which must not run, finds what its disk kept. Nothing when it never ran.
    ///
    /// # Errors
    ///
    /// The node did what is not modelled, or the folders cannot be read or written.
    pub fn cut(&self, random: Option<&mut StdRng>) -> Result<Loss> {
        if !self.journal().exists() {
            return Ok(Loss::default());
        }
        let mut model = Model::default();
        for (number, line) in fs::read_to_string(self.journal())?.lines().enumerate() {
            model.apply(line).with_context(|| format!("line {} of the journal: {line}", number + 1))?;
        }
        let before: BTreeSet<String> = model.now().into_keys().collect();
        let mut loss = Loss::default();
        for entry in ours(&self.root)? {
            fs::remove_dir_all(entry)?;
        }
        let mut random = random;
        model.settle(random.as_deref_mut());
        let after = model.now();
        for (path, kept) in &after {
            let path = Path::new(path);
            if path == self.root {
                continue;
            }
            let Kept::File { inode, synced } = kept else {
                fs::create_dir(path)?;
                continue;
            };
            let bytes = self.inodes().join(inode.to_string());
            let written = fs::metadata(&bytes)?.len();
            let end = match random.as_deref_mut() {
                Some(random) if written > *synced => random.random_range(*synced..=written),
                _ => *synced,
            };
            ensure!(end <= written, "{} has {written} bytes, of which {end} were synced", path.display());
            if written > end {
                fs::OpenOptions::new().write(true).open(&bytes)?.set_len(end)?;
            }
            fs::hard_link(&bytes, path)?;
            loss.bytes += written - end;
            loss.kept += 1;
        }
        loss.gone = before.iter().filter(|path| !after.contains_key(*path)).count();
        loss.back = after.keys().filter(|path| !before.contains(*path)).count();
        Ok(loss)
    }

    fn journal(&self) -> PathBuf {
        self.folder.join("journal")
    }

    fn inodes(&self) -> PathBuf {
        self.folder.join("inodes")
    }
}

/// What the journal is about, in a node's folder.
fn ours(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("state-") || name == "pins" || name == "incoming" {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Number of a file or folder in the [`Model`]; inode numbers of folders come again.
type Id = usize;

/// Changes of names in one folder that happen together: what each name stands for afterwards.
type Change = Vec<(String, Option<Id>)>;

#[derive(Debug)]
enum Node {
    File { inode: u64, synced: u64 },
    Folder { durable: BTreeMap<String, Id>, unsynced: Vec<Change> },
}

/// What is there at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Kept {
    File { inode: u64, synced: u64 },
    Folder,
}

/// A file system, as the journal tells of it. The first folder that it names is the root.
#[derive(Debug, Default)]
struct Model {
    root: String,
    nodes: Vec<Node>,
    by_inode: HashMap<u64, Id>,
}

impl Model {
    fn apply(&mut self, line: &str) -> Result<()> {
        match line.split('\t').collect::<Vec<_>>()[..] {
            ["mkdir", path, inode] => {
                let id = self.add(inode.parse()?, Node::Folder { durable: BTreeMap::new(), unsynced: Vec::new() });
                if id == 0 {
                    path.clone_into(&mut self.root);
                    return Ok(());
                }
                self.change(path, Some(id))
            }
            ["file", path, inode] => {
                let inode = inode.parse()?;
                let id = self.add(inode, Node::File { inode, synced: 0 });
                self.change(path, Some(id))
            }
            ["link", path, inode] => {
                let id = self.id(inode)?;
                self.change(path, Some(id))
            }
            ["unlink" | "rmdir", path] => {
                self.find(path)?;
                self.change(path, None)
            }
            ["rename", from, to] => {
                let id = self.find(from)?;
                let ((folder, old), (into, new)) = (parts(from)?, parts(to)?);
                ensure!(folder == into, "a rename into another folder is not modelled");
                let changes = vec![(old.to_owned(), None), (new.to_owned(), Some(id))];
                self.changes(folder)?.push(changes);
                Ok(())
            }
            ["sync", inode, bytes] => match self.node(inode)? {
                Node::File { synced, .. } => {
                    *synced = bytes.parse::<u64>()?.max(*synced);
                    Ok(())
                }
                Node::Folder { .. } => bail!("a folder has no bytes"),
            },
            ["syncdir", inode] => match self.node(inode)? {
                Node::Folder { durable, unsynced } => {
                    unsynced.drain(..).for_each(|change| carry_out(durable, change));
                    Ok(())
                }
                Node::File { .. } => bail!("a file has no names"),
            },
            ["truncate", inode, bytes] => match self.node(inode)? {
                Node::File { synced, .. } if bytes.parse::<u64>()? >= *synced => Ok(()),
                _ => bail!("to cut what was synced is not modelled"),
            },
            ["overwrite", _] => bail!("a write below the end is not modelled"),
            ["failed", ..] => Ok(()),
            _ => bail!("no such line"),
        }
    }

    fn add(&mut self, inode: u64, node: Node) -> Id {
        self.nodes.push(node);
        self.by_inode.insert(inode, self.nodes.len() - 1);
        self.nodes.len() - 1
    }

    fn id(&self, inode: &str) -> Result<Id> {
        self.by_inode.get(&inode.parse()?).copied().context("nobody knows this inode")
    }

    fn node(&mut self, inode: &str) -> Result<&mut Node> {
        let id = self.id(inode)?;
        Ok(&mut self.nodes[id])
    }

    fn find(&self, path: &str) -> Result<Id> {
        let below = path.strip_prefix(&self.root).context("this is not below the root")?;
        let mut at = 0;
        for name in below.split('/').filter(|name| !name.is_empty()) {
            at = *self.names(at).get(name).with_context(|| format!("there is no {name}"))?;
        }
        Ok(at)
    }

    /// Names in a folder, as the node sees them.
    fn names(&self, folder: Id) -> BTreeMap<String, Id> {
        let Node::Folder { durable, unsynced } = &self.nodes[folder] else { return BTreeMap::new() };
        let mut names = durable.clone();
        unsynced.iter().for_each(|change| carry_out(&mut names, change.clone()));
        names
    }

    fn changes(&mut self, folder: &str) -> Result<&mut Vec<Change>> {
        let id = self.find(folder)?;
        match &mut self.nodes[id] {
            Node::Folder { unsynced, .. } => Ok(unsynced),
            Node::File { .. } => bail!("{folder} is a file"),
        }
    }

    fn change(&mut self, path: &str, id: Option<Id>) -> Result<()> {
        let (folder, name) = parts(path)?;
        self.changes(folder)?.push(vec![(name.to_owned(), id)]);
        Ok(())
    }

    /// Everything by path, parents first.
    fn now(&self) -> BTreeMap<String, Kept> {
        let mut found = BTreeMap::new();
        let mut open = vec![(self.root.clone(), 0)];
        while let Some((path, id)) = open.pop() {
            let kept = match &self.nodes[id] {
                Node::File { inode, synced } => Kept::File { inode: *inode, synced: *synced },
                Node::Folder { .. } => {
                    let names = self.names(id).into_iter();
                    open.extend(names.map(|(name, id)| (format!("{path}/{name}"), id)));
                    Kept::Folder
                }
            };
            found.insert(path, kept);
        }
        found
    }

    /// Leaves of the unsynced changes of each folder none, or the first few.
    fn settle(&mut self, mut random: Option<&mut StdRng>) {
        for node in &mut self.nodes {
            if let Node::Folder { durable, unsynced } = node {
                let survive = random.as_deref_mut().map_or(0, |random| random.random_range(0..=unsynced.len()));
                unsynced.drain(..).take(survive).for_each(|change| carry_out(durable, change));
            }
        }
    }
}

fn parts(path: &str) -> Result<(&str, &str)> {
    path.rsplit_once('/').context("a path has a folder")
}

fn carry_out(names: &mut BTreeMap<String, Id>, change: Change) {
    for (name, id) in change {
        match id {
            Some(id) => names.insert(name, id),
            None => names.remove(&name),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is left of a journal that begins with an empty root 1.
    fn left(lines: &[&str]) -> Result<Vec<(String, u64)>> {
        let mut model = Model::default();
        model.apply("mkdir\t/n\t1")?;
        for line in lines {
            model.apply(&line.replace(' ', "\t"))?;
        }
        model.settle(None);
        let bytes = |kept| match kept {
            Kept::File { synced, .. } => synced,
            Kept::Folder => 0,
        };
        let rest = model.now().into_iter().filter(|(path, _)| path != "/n");
        Ok(rest.map(|(path, kept)| (path, bytes(kept))).collect())
    }

    #[track_caller]
    fn check(lines: &[&str], expected: &[(&str, u64)]) {
        let expected: Vec<_> = expected.iter().map(|(path, bytes)| ((*path).to_owned(), *bytes)).collect();
        assert_eq!(left(lines).expect("it is modelled"), expected);
    }

    const FOLDER: [&str; 2] = ["mkdir /n/s 2", "syncdir 1"];

    #[test]
    fn only_what_was_synced_is_left() {
        check(&["mkdir /n/s 2", "file /n/s/a 3", "sync 3 9", "syncdir 2"], &[]);
        let mut lines = FOLDER.to_vec();
        lines.extend(["file /n/s/a 3", "sync 3 9"]);
        check(&lines, &[("/n/s", 0)]);
        lines.push("syncdir 2");
        check(&lines, &[("/n/s", 0), ("/n/s/a", 9)]);
        lines.extend(["file /n/s/b 4", "rename /n/s/b /n/s/a"]);
        check(&lines, &[("/n/s", 0), ("/n/s/a", 9)]);
        lines.push("syncdir 2");
        check(&lines, &[("/n/s", 0), ("/n/s/a", 0)]);
        lines.extend(["unlink /n/s/a", "rmdir /n/s"]);
        check(&lines, &[("/n/s", 0), ("/n/s/a", 0)]);
        lines.push("syncdir 1");
        check(&lines, &[]);
    }

    #[test]
    fn a_folder_is_renamed_with_what_is_in_it() {
        let mut lines = FOLDER.to_vec();
        lines.extend(["mkdir /n/s/t 5", "file /n/s/t/a 3", "sync 3 7", "syncdir 5", "rename /n/s/t /n/s/u"]);
        lines.extend(["link /n/s/u/b 3", "syncdir 2"]);
        check(&lines, &[("/n/s", 0), ("/n/s/u", 0), ("/n/s/u/a", 7)]);
    }

    #[test]
    fn what_is_not_modelled_is_no_guess() {
        for line in ["overwrite 3", "truncate 3 4", "unlink /n/s/b", "rename /n/s/a /n/b", "sync 8 1", "what"] {
            let mut lines = FOLDER.to_vec();
            lines.extend(["file /n/s/a 3", "sync 3 9", line]);
            assert!(left(&lines).is_err(), "{line}");
        }
    }
}
