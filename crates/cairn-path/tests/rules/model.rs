//! Trees, paths and users at random: what a view answers is what a plain model of the kernel's rules says.

use bytes::Bytes;
use cairn_path::{Create, Credentials, Follow, OpenOptions, PathError, View};
use cairn_types::{AttrChange, Errno, NewNode, RenameMode};
use proptest::prelude::*;

use crate::memory::MemoryFs;
use crate::{run, superuser};

/// Names are few, so that paths meet what is there.
const NAMES: [&str; 3] = ["a", "b", "c"];

#[derive(Clone, Debug)]
enum Kind {
    Directory,
    File,
    Link(String),
}

#[derive(Clone, Debug)]
struct Node {
    parent: usize,
    name: &'static str,
    kind: Kind,
    mode: u32,
    uid: u32,
    gid: u32,
}

/// Node 0 is the root.
#[derive(Clone, Debug)]
struct Tree(Vec<Node>);

#[derive(Clone, Debug)]
enum Request {
    Stat(String, bool),
    List(String),
    Read(String),
    Write(String),
    Create(String),
    MakeDirectory(String),
    Remove(String),
    RemoveDirectory(String),
    Rename(String, String),
    Chmod(String, u32),
}

type Answer<T> = Result<T, Errno>;

fn may(who: &Credentials, node: &Node, wanted: u32) -> bool {
    let is_in = who.gid == node.gid || who.groups.contains(&node.gid);
    let shift = match () {
        () if who.uid == node.uid => 6,
        () if is_in => 3,
        () => 0,
    };
    who.uid == 0 || node.mode >> shift & wanted == wanted
}

fn need(allowed: bool, errno: Errno) -> Answer<()> {
    if allowed { Ok(()) } else { Err(errno) }
}

impl Tree {
    fn child(&self, parent: usize, name: &str) -> Option<usize> {
        (1..self.0.len()).find(|at| self.0[*at].parent == parent && self.0[*at].name == name)
    }

    fn is_directory(&self, at: usize) -> bool {
        matches!(self.0[at].kind, Kind::Directory)
    }

    /// Directory, last name (none after `.` and `..` and for the root) and node, one step after the other: the text of a
    /// link takes the place of its name in the path.
    fn locate(&self, who: &Credentials, path: &str, follow: bool) -> Answer<(usize, Option<String>, Option<usize>)> {
        let mut path = path.to_owned();
        let mut links = 0;
        'again: loop {
            let mut here = 0;
            let mut done = String::new();
            let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
            for (index, name) in names.iter().enumerate() {
                let left = names[index + 1..].join("/");
                let last = left.is_empty();
                need(may(who, &self.0[here], 1), Errno::EACCES)?;
                if *name == "." || *name == ".." {
                    here = if *name == ".." { self.0[here].parent } else { here };
                    done = format!("{done}/{name}");
                    continue;
                }
                let Some(found) = self.child(here, name) else {
                    return if last { Ok((here, Some((*name).to_owned()), None)) } else { Err(Errno::ENOENT) };
                };
                match &self.0[found].kind {
                    Kind::Link(target) if !last || follow => {
                        links += 1;
                        need(links <= 40, Errno::ELOOP)?;
                        let directory = &self.0[here];
                        let trap = directory.mode & 0o1002 == 0o1002
                            && self.0[found].uid != who.uid
                            && self.0[found].uid != directory.uid;
                        need(!(last && trap), Errno::EACCES)?;
                        let before = if target.starts_with('/') { "" } else { &done };
                        path = format!("{before}/{target}/{left}");
                        continue 'again;
                    }
                    Kind::Directory | Kind::File | Kind::Link(_) if last => {
                        return Ok((here, Some((*name).to_owned()), Some(found)));
                    }
                    Kind::Directory => {}
                    Kind::File | Kind::Link(_) => return Err(Errno::ENOTDIR),
                }
                here = found;
                done = format!("{done}/{name}");
            }
            return Ok((here, None, Some(here)));
        }
    }

    fn existing(&self, who: &Credentials, path: &str, follow: bool) -> Answer<usize> {
        self.locate(who, path, follow)?.2.ok_or(Errno::ENOENT)
    }

    /// May the name be taken out of its directory?
    fn removable(&self, who: &Credentials, path: &str) -> Answer<(usize, usize)> {
        let (directory, name, node) = self.locate(who, path, false)?;
        let node = node.ok_or(Errno::ENOENT)?;
        need(name.is_some(), Errno::EBUSY)?;
        let at = &self.0[directory];
        need(may(who, at, 3), Errno::EACCES)?;
        let owner = who.uid == 0 || who.uid == self.0[node].uid || who.uid == at.uid;
        need(at.mode & 0o1000 == 0 || owner, Errno::EPERM)?;
        Ok((directory, node))
    }

    fn creatable(&self, who: &Credentials, path: &str) -> Answer<()> {
        let (directory, _, node) = self.locate(who, path, false)?;
        need(node.is_none(), Errno::EEXIST)?;
        need(may(who, &self.0[directory], 3), Errno::EACCES)
    }

    fn is_empty(&self, at: usize) -> bool {
        self.0.iter().skip(1).all(|node| node.parent != at)
    }

    fn answer(&self, who: &Credentials, request: &Request) -> Answer<()> {
        match request {
            Request::Stat(path, follow) => self.existing(who, path, *follow).map(drop),
            Request::List(path) => {
                let at = self.existing(who, path, true)?;
                need(self.is_directory(at), Errno::ENOTDIR)?;
                need(may(who, &self.0[at], 4), Errno::EACCES)
            }
            Request::Read(path) | Request::Write(path) => {
                let at = self.existing(who, path, true)?;
                need(!self.is_directory(at), Errno::EISDIR)?;
                let wanted = if matches!(request, Request::Read(_)) { 4 } else { 2 };
                need(may(who, &self.0[at], wanted), Errno::EACCES)
            }
            Request::Create(path) | Request::MakeDirectory(path) => self.creatable(who, path),
            Request::Remove(path) => {
                let (_, node) = self.removable(who, path)?;
                need(!self.is_directory(node), Errno::EISDIR)
            }
            Request::RemoveDirectory(path) => {
                let (_, node) = self.removable(who, path)?;
                need(self.is_directory(node), Errno::ENOTDIR)?;
                need(self.is_empty(node), Errno::ENOTEMPTY)
            }
            Request::Rename(from, to) => {
                self.locate(who, from, false)?;
                let (directory, name, replaced) = self.locate(who, to, false)?;
                let (old, node) = self.removable(who, from)?;
                if replaced.is_some() {
                    self.removable(who, to)?;
                } else {
                    need(may(who, &self.0[directory], 3), Errno::EACCES)?;
                    need(name.is_some(), Errno::EBUSY)?;
                }
                let leaves = self.is_directory(node) && old != directory;
                need(!leaves || may(who, &self.0[node], 2), Errno::EACCES)
            }
            Request::Chmod(path, _) => {
                let at = self.existing(who, path, true)?;
                need(who.uid == 0 || who.uid == self.0[at].uid, Errno::EPERM)
            }
        }
    }

    /// Makes the tree; the root's mode last, as everything is made by the superuser.
    async fn build(&self) -> View<MemoryFs> {
        let view = superuser().await;
        let mut made = vec![view.root().clone()];
        let mut paths = vec![String::new()];
        for node in &self.0[1..] {
            let path = format!("{}/{}", paths[node.parent], node.name);
            let new = match &node.kind {
                Kind::Directory => NewNode::Directory,
                Kind::File => NewNode::Regular,
                Kind::Link(target) => NewNode::Symlink(Bytes::from(target.clone())),
            };
            made.push(view.make(&path, new, 0).await.expect("made"));
            paths.push(path);
        }
        for (node, about) in made.iter().zip(&self.0) {
            let change = AttrChange {
                mode: Some(about.mode),
                uid: Some(about.uid),
                gid: Some(about.gid),
                ..AttrChange::default()
            };
            view.change(node, change).await.expect("changed");
        }
        view
    }
}

async fn ask(view: &View<MemoryFs>, request: &Request) -> Result<(), PathError> {
    match request {
        Request::Stat(path, follow) => view.stat(path, if *follow { Follow::Yes } else { Follow::No }).await.map(drop),
        Request::List(path) => view.list(path).await?.collect().await.map(drop),
        Request::Read(path) => view.open(path, OpenOptions::default()).await?.close().await,
        Request::Write(path) => view.open(path, OpenOptions::writing()).await?.close().await,
        Request::Create(path) => {
            let options = OpenOptions { create: Create::New, ..OpenOptions::writing() };
            view.open(path, options).await?.close().await
        }
        Request::MakeDirectory(path) => view.make(path, NewNode::Directory, 0o755).await.map(drop),
        Request::Remove(path) => view.remove(path).await,
        Request::RemoveDirectory(path) => view.remove_directory(path).await,
        Request::Rename(from, to) => view.rename(from, to, RenameMode::Replace).await,
        Request::Chmod(path, mode) => {
            let node = view.node(path, Follow::Yes).await?;
            view.change(&node, AttrChange { mode: Some(*mode), ..AttrChange::default() }).await.map(drop)
        }
    }
}

fn path() -> impl Strategy<Value = String> {
    let step = prop_oneof![6 => proptest::sample::select(&NAMES[..]), 1 => Just("."), 2 => Just("..")];
    (any::<bool>(), proptest::collection::vec(step, 0..5))
        .prop_map(|(absolute, steps)| format!("{}{}", if absolute { "/" } else { "" }, steps.join("/")))
}

fn mode() -> impl Strategy<Value = u32> {
    prop_oneof![4 => Just(0o777), 1 => Just(0o1777), 1 => Just(0o1773), 2 => Just(0o755), 3 => 0..0o1000u32]
}

fn node() -> impl Strategy<Value = (usize, usize, Kind, u32, u32, u32)> {
    let link = path().prop_filter("not empty", |target| !target.is_empty() && target != "/");
    let kind = prop_oneof![4 => Just(Kind::Directory), 2 => Just(Kind::File), 2 => link.prop_map(Kind::Link)];
    (0..8usize, 0..NAMES.len(), kind, mode(), 0..4u32, 0..4u32)
}

/// Nodes whose place is taken, or in no directory, are left out.
fn tree() -> impl Strategy<Value = Tree> {
    (mode(), proptest::collection::vec(node(), 0..12)).prop_map(|(mode, nodes)| {
        let root = Node { parent: 0, name: "", kind: Kind::Directory, mode, uid: 0, gid: 0 };
        let mut tree = Tree(vec![root]);
        for (parent, name, kind, mode, uid, gid) in nodes {
            let (parent, name) = (parent % tree.0.len(), NAMES[name]);
            if tree.is_directory(parent) && tree.child(parent, name).is_none() {
                tree.0.push(Node { parent, name, kind, mode, uid, gid });
            }
        }
        tree
    })
}

fn user() -> impl Strategy<Value = Credentials> {
    (0..4u32, 0..4u32, proptest::collection::vec(0..4u32, 0..2)).prop_map(|(uid, gid, groups)| Credentials {
        uid,
        gid,
        groups,
        umask: 0o022,
    })
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        (path(), any::<bool>()).prop_map(|(path, follow)| Request::Stat(path, follow)),
        path().prop_map(Request::List),
        path().prop_map(Request::Read),
        path().prop_map(Request::Write),
        path().prop_map(Request::Create),
        path().prop_map(Request::MakeDirectory),
        path().prop_map(Request::Remove),
        path().prop_map(Request::RemoveDirectory),
        (path(), path()).prop_map(|(from, to)| Request::Rename(from, to)),
        (path(), mode()).prop_map(|(path, mode)| Request::Chmod(path, mode)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn a_view_allows_and_refuses_what_the_kernel_does(tree in tree(), who in user(), request in request()) {
        let (expected, got, references) = run(async {
            let whole = tree.build().await;
            let fs = whole.file_system().clone();
            let got = ask(&whole.for_user(who.clone()), &request).await;
            drop(whole);
            tokio::task::yield_now().await;
            (tree.answer(&who, &request), got.map_err(|error| error.errno()), fs.references())
        });
        if expected.is_ok() && matches!(request, Request::Rename(..)) {
            // The file system decides the rest: a directory into itself, over one that is not empty.
            prop_assert!(!matches!(got, Err(Errno::EACCES | Errno::EPERM)));
        } else {
            prop_assert_eq!(expected, got);
        }
        prop_assert_eq!(references, 0, "every reference is given back");
    }
}
