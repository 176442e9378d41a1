//! What the model does not know: content, set-id bits, links, owners, roots.

use bytes::Bytes;
use cairn_path::{Create, Credentials, Durability, Follow, Holes, OpenOptions, View};
use cairn_types::{AttrChange, Errno, NewNode, RenameMode, XattrMode};

use crate::memory::MemoryFs;
use crate::{run, superuser};

fn user(uid: u32) -> Credentials {
    Credentials { uid, gid: uid, groups: vec![100], umask: 0o022 }
}

async fn write(view: &View<MemoryFs>, path: &str, content: &'static str) {
    let options = OpenOptions { create: Create::IfAbsent, truncate: true, ..OpenOptions::writing() };
    let file = view.open(path, options).await.expect("opened");
    file.write(0, Bytes::from_static(content.as_bytes())).await.expect("written");
    file.close().await.expect("closed");
}

async fn read(view: &View<MemoryFs>, path: &str) -> Result<String, Errno> {
    let file = view.open(path, OpenOptions::default()).await.map_err(|error| error.errno())?;
    let mut stream = file.stream(0..u64::MAX, Holes::Fill);
    let mut all = Vec::new();
    while let Some((offset, bytes)) = stream.next().await.expect("read") {
        assert_eq!(offset, all.len() as u64);
        all.extend_from_slice(&bytes);
    }
    Ok(String::from_utf8(all).expect("text"))
}

async fn link(view: &View<MemoryFs>, path: &str, target: &'static str) {
    view.make(path, NewNode::Symlink(Bytes::from_static(target.as_bytes())), 0o777).await.expect("linked");
}

#[test]
fn nothing_leads_out_of_a_root() {
    run(async {
        let view = superuser().await;
        write(&view, "secret", "outside").await;
        view.make_directories("home/one", 0o755).await.expect("made");
        write(&view, "home/one/secret", "inside").await;
        link(&view, "home/one/absolute", "/secret").await;
        link(&view, "home/one/climbs", "../../../secret").await;
        let home = view.at("home/one").await.expect("a view");
        for path in ["secret", "/secret", "../secret", "../../secret", "absolute", "climbs", "./climbs/../secret"] {
            let wanted = if path == "./climbs/../secret" { Err(Errno::ENOTDIR) } else { Ok("inside".to_owned()) };
            assert_eq!(read(&home, path).await, wanted, "{path}");
        }
        assert_eq!(read(&view, "home/one/absolute").await.as_deref(), Ok("outside"));
        assert_eq!(read(&home.without_links(), "climbs").await, Err(Errno::ELOOP));
        // What the view had to walk through is not asked again.
        let stranger = home.for_user(user(7));
        assert_eq!(read(&stranger, "secret").await.as_deref(), Ok("inside"));
    });
}

#[test]
fn links_end_after_forty_and_long_paths_are_refused() {
    run(async {
        let view = superuser().await;
        write(&view, "l0", "end").await;
        for (number, before) in (1..=41).zip(0..) {
            let target = Bytes::from(format!("l{before}"));
            view.make(format!("l{number}"), NewNode::Symlink(target), 0o777).await.expect("linked");
        }
        assert_eq!(read(&view, "l40").await.as_deref(), Ok("end"));
        assert_eq!(read(&view, "l41").await, Err(Errno::ELOOP));
        link(&view, "circle", "circle").await;
        assert_eq!(read(&view, "circle/x").await, Err(Errno::ELOOP));
        assert_eq!(read(&view, &"a".repeat(256)).await, Err(Errno::ENAMETOOLONG));
        assert_eq!(read(&view, &"a/".repeat(2048)).await, Err(Errno::ENAMETOOLONG));
        assert_eq!(read(&view, "l0/").await, Err(Errno::ENOTDIR), "a slash means a directory");
        let error = view.stat("no/such", Follow::Yes).await.expect_err("absent");
        assert_eq!(error.to_string(), format!("cannot find no/such: {}", Errno::ENOENT));
    });
}

#[test]
fn a_file_is_made_where_a_link_leads() {
    run(async {
        let view = superuser().await;
        view.make("d", NewNode::Directory, 0o755).await.expect("made");
        link(&view, "to", "d/new").await;
        write(&view, "to", "x").await;
        assert_eq!(read(&view, "d/new").await.as_deref(), Ok("x"));
        link(&view, "other", "d/other").await;
        let new = OpenOptions { create: Create::New, ..OpenOptions::writing() };
        let error = view.open("other", new).await.err().expect("the link is there");
        assert_eq!(error.errno(), Errno::EEXIST);
    });
}

#[test]
fn new_nodes_belong_to_the_user_less_the_umask() {
    run(async {
        let view = superuser().await;
        view.make("shared", NewNode::Directory, 0o1777).await.expect("made");
        let mine = view.for_user(user(7));
        write(&mine, "shared/mine", "x").await;
        let attr = mine.stat("shared/mine", Follow::No).await.expect("there");
        assert_eq!((attr.uid, attr.gid, attr.mode), (7, 7, 0o644));
        let theirs = view.for_user(user(8));
        assert_eq!(theirs.remove("shared/mine").await.expect_err("sticky").errno(), Errno::EPERM);
        let moved = theirs.rename("shared/mine", "shared/x", RenameMode::Replace).await;
        assert_eq!(moved.expect_err("sticky").errno(), Errno::EPERM);
        let replaced = theirs.replace("shared/mine", 0o644).await.err().expect("sticky");
        assert_eq!(replaced.errno(), Errno::EPERM);
        let device = mine.make("shared/null", NewNode::CharDevice(0x103), 0o666).await.err().expect("no device");
        assert_eq!(device.errno(), Errno::EPERM);
        let for_another = mine.making_for(0, 0);
        write(&for_another, "shared/still", "x").await;
        assert_eq!(mine.stat("shared/still", Follow::No).await.expect("there").uid, 7);
        mine.remove("shared/mine").await.expect("one's own");
    });
}

#[test]
fn nobody_gains_by_set_id_bits_and_links() {
    run(async {
        let view = superuser().await;
        // A directory of group 50 that anybody may write.
        let folder = view.make("d", NewNode::Directory, 0o777).await.expect("made");
        let passes_on = AttrChange { mode: Some(0o2777), gid: Some(50), ..AttrChange::default() };
        view.change(&folder, passes_on).await.expect("changed");
        let mine = view.for_user(user(7));
        let options = OpenOptions { create: Create::New, mode: 0o2775, ..OpenOptions::writing() };
        mine.open("d/tool", options).await.expect("made").close().await.expect("closed");
        assert_eq!(mine.stat("d/tool", Follow::No).await.expect("there").mode & 0o2000, 0);

        let set = view.making_for(7, 200).make("d/set", NewNode::Regular, 0o4777).await.expect("made");
        let chmod = |mode| AttrChange { mode: Some(mode), ..AttrChange::default() };
        assert_eq!(mine.change(&set, chmod(0o2755)).await.expect("owner").mode, 0o755, "not in group 200");
        assert_eq!(mine.for_user(user(8)).change(&set, chmod(0o777)).await.expect_err("not his").errno(), Errno::EPERM);
        let give = AttrChange { uid: Some(8), ..AttrChange::default() };
        assert_eq!(mine.change(&set, give).await.expect_err("giving away").errno(), Errno::EPERM);
        let own_group = AttrChange { gid: Some(100), ..AttrChange::default() };
        assert_eq!(mine.change(&set, own_group).await.expect("one's own group").gid, 100);

        // Further names: one's own files, and what one may read and write.
        let private = view.make("private", NewNode::Regular, 0o644).await.expect("made");
        assert_eq!(mine.link(&private, "d/further").await.expect_err("protected").errno(), Errno::EPERM);
        let open = view.make("open", NewNode::Regular, 0o666).await.expect("made");
        mine.link(&open, "d/further").await.expect("linked");
        assert_eq!(mine.link(&folder, "d/again").await.expect_err("a directory").errno(), Errno::EPERM);
    });
}

#[test]
fn attributes_follow_the_rights_of_their_kind() {
    run(async {
        let view = superuser().await;
        let node = view.making_for(7, 7).make("f", NewNode::Regular, 0o640).await.expect("made");
        let set = |view: View<MemoryFs>, name: &'static str| {
            let node = node.clone();
            async move {
                let set = view.set_xattr(&node, name.into(), "v".into(), XattrMode::CreateOrReplace).await;
                set.map_err(|error| error.errno())
            }
        };
        assert_eq!(set(view.clone(), "trusted.t").await, Ok(()));
        let (mine, theirs) = (view.for_user(user(7)), view.for_user(user(8)));
        assert_eq!(set(mine.clone(), "user.u").await, Ok(()));
        assert_eq!(set(mine.clone(), "trusted.t").await, Err(Errno::EPERM));
        assert_eq!(set(theirs.clone(), "user.u").await, Err(Errno::EACCES));
        assert_eq!(set(theirs.clone(), "system.posix_acl_access").await, Err(Errno::EPERM));
        let names = |view: View<MemoryFs>| {
            let node = node.clone();
            async move { view.xattrs(&node).await.expect("read").into_iter().map(|(name, _)| name).collect::<Vec<_>>() }
        };
        assert_eq!(names(mine).await, ["user.u"]);
        assert!(names(theirs).await.is_empty());
        assert_eq!(names(view).await.len(), 2);
    });
}

#[test]
fn a_replacement_is_seen_as_a_whole_or_not_at_all() {
    run(async {
        let view = superuser().await;
        view.make("d", NewNode::Directory, 0o755).await.expect("made");
        write(&view, "d/f", "old").await;
        for (path, before) in [("d/f", Ok("old")), ("d/new", Err(Errno::ENOENT))] {
            let replacement = view.replace(path, 0o600).await.expect("begun");
            replacement.file().write(0, Bytes::from_static(b"new content")).await.expect("written");
            assert_eq!(read(&view, path).await.as_deref().map_err(|errno| *errno), before);
            let attr = replacement.commit(Durability::Now).await.expect("in place");
            assert_eq!((attr.mode, attr.nlink), (0o600, 1), "{path}");
            assert_eq!(read(&view, path).await.as_deref(), Ok("new content"));
        }
        let dropped = view.replace("d/f", 0o600).await.expect("begun");
        dropped.file().write(0, Bytes::from_static(b"never seen")).await.expect("written");
        drop(dropped);
        assert_eq!(read(&view, "d/f").await.as_deref(), Ok("new content"));
        assert_eq!(view.replace("d", 0o600).await.err().expect("a directory").errno(), Errno::EISDIR);
        let mut names = Vec::new();
        for entry in view.list("d").await.expect("list").collect().await.expect("listed") {
            names.push(entry.name);
        }
        names.sort();
        assert_eq!(names, ["f", "new"]);
    });
}

#[test]
fn a_walk_is_in_order_and_goes_on_behind_what_is_closed_to_it() {
    run(async {
        let view = superuser().await;
        for path in ["b/closed", "b/open", "a"] {
            view.make_directories(path, 0o755).await.expect("made");
        }
        for path in ["b/closed/x", "b/open/y", "a/1", "c"] {
            write(&view, path, "x").await;
        }
        link(&view, "b/open/link", "/a").await;
        let closed = view.node("b/closed", Follow::No).await.expect("there");
        view.change(&closed, AttrChange { mode: Some(0o700), ..AttrChange::default() }).await.expect("changed");
        let mine = view.for_user(user(7));
        let mut walk = mine.walk("").await.expect("begun");
        let (mut seen, mut refused) = (Vec::new(), Vec::new());
        loop {
            match walk.next().await {
                Ok(Some(found)) => {
                    if found.path.ends_with("a") {
                        walk.skip();
                    }
                    seen.push(found.path.display().to_string());
                }
                Ok(None) => break,
                Err(error) => refused.push((error.path.display().to_string(), error.errno())),
            }
        }
        assert_eq!(seen, ["", "a", "b", "b/closed", "b/open", "b/open/link", "b/open/y", "c"]);
        assert_eq!(refused, [("b/closed".to_owned(), Errno::EACCES)]);
    });
}

#[test]
fn directories_that_are_there_are_left_alone() {
    run(async {
        let view = superuser().await;
        let made = view.make_directories("a/b/c", 0o755).await.expect("made");
        let again = view.make_directories("/a/./b/c/", 0o700).await.expect("there");
        assert_eq!((made.ino(), again.attr().mode), (again.ino(), 0o755));
        write(&view, "a/file", "x").await;
        let blocked = view.make_directories("a/file/x", 0o755).await.err().expect("a file");
        assert_eq!(blocked.errno(), Errno::ENOTDIR);
        link(&view, "nowhere", "missing").await;
        assert!(view.make_directories("nowhere", 0o755).await.is_err());
    });
}
