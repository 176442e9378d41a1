//! Two mounts of one volume, each behind a kernel that caches all it may: whatever one has finished, the other sees.

use std::collections::BTreeMap;

use crate::support::kernel::Kernel;
use crate::support::{World, run};
use cairn_client::FsResult;
use cairn_types::{AttrChange, Errno, Ino};

/// A small generator of pseudo-random numbers (xorshift), so that a failing seed can be repeated.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }
}

#[derive(Clone, Default)]
struct File {
    content: Vec<u8>,
    mode: u32,
}

/// What the volume must hold: files by number, names of files.
#[derive(Default)]
struct Model {
    files: BTreeMap<u64, File>,
    names: BTreeMap<String, u64>,
    next: u64,
}

impl Model {
    fn file(&mut self, name: &str) -> Option<&mut File> {
        self.files.get_mut(self.names.get(name)?)
    }
}

fn expect<T: std::fmt::Debug>(outcome: FsResult<T>, exists: bool, what: &str) -> bool {
    match outcome {
        Ok(_) => assert!(exists, "{what} worked on a name that is not there"),
        Err(error) if error == Errno::ENOENT => assert!(!exists, "{what} did not find a name that is there"),
        Err(errno) => panic!("{what}: {errno:?}"),
    }
    exists
}

async fn step(mounts: &[Kernel], model: &mut Model, chance: &mut Chance, number: u64) {
    let mount = &mounts[chance.below(mounts.len() as u64) as usize];
    let of = format!("f{}", chance.below(5));
    let other = format!("f{}", chance.below(5));
    let exists = model.names.contains_key(&of);
    match chance.below(16) {
        0..=2 => match mount.create(&of).await {
            Ok(()) => {
                assert!(!exists, "created {of} twice");
                model.next += 1;
                model.files.insert(model.next, File { content: Vec::new(), mode: 0o644 });
                model.names.insert(of, model.next);
            }
            Err(error) if error == Errno::EEXIST => assert!(exists),
            Err(errno) => panic!("create: {errno:?}"),
        },
        3..=5 => {
            let offset = chance.below(30_000) as usize;
            let data = vec![number as u8; 1 + chance.below(20_000) as usize];
            if expect(mount.write(&of, offset as u64, &data).await, exists, "write") {
                let content = &mut model.file(&of).expect("there").content;
                content.resize(content.len().max(offset + data.len()), 0);
                content[offset..offset + data.len()].copy_from_slice(&data);
            }
        }
        6 => {
            let data = vec![number as u8; 1 + chance.below(3_000) as usize];
            if expect(mount.append(&of, &data).await, exists, "append") {
                model.file(&of).expect("there").content.extend_from_slice(&data);
            }
        }
        7 => {
            let size = chance.below(40_000);
            if expect(mount.truncate(&of, size).await, exists, "truncate") {
                model.file(&of).expect("there").content.resize(size as usize, 0);
            }
        }
        8 => {
            if expect(mount.unlink(&of).await, exists, "unlink") {
                model.names.remove(&of);
            }
        }
        9 => {
            if expect(mount.rename(&of, &other).await, exists, "rename") && of != other {
                let moved = model.names[&of];
                if model.names.get(&other) != Some(&moved) {
                    model.names.remove(&of);
                    model.names.insert(other, moved);
                }
            }
        }
        10 => {
            let free = !model.names.contains_key(&other);
            match mount.link(&of, &other).await {
                Ok(()) => {
                    assert!(exists && free);
                    let linked = model.names[&of];
                    model.names.insert(other, linked);
                }
                Err(error) if error == Errno::ENOENT => assert!(!exists),
                Err(error) if error == Errno::EEXIST => assert!(!free),
                Err(errno) => panic!("link: {errno:?}"),
            }
        }
        11 => {
            let mode = 0o600 + chance.below(0o100) as u32;
            let change = AttrChange { mode: Some(mode), ..AttrChange::default() };
            if expect(mount.change(&of, change).await, exists, "chmod") {
                model.file(&of).expect("there").mode = mode;
            }
        }
        12 => {
            let mut names =
                mount.list(Ino::ROOT, 200 + chance.below(2000) as u32, chance.below(2) == 0).await.expect("list");
            names.retain(|name| name != "." && name != "..");
            assert_eq!(names, model.names.keys().cloned().collect::<Vec<_>>(), "list");
        }
        _ => look(mount, model, &of).await,
    }
}

/// Compares a name with the model.
async fn look(mount: &Kernel, model: &mut Model, of: &str) {
    let links = model.names.get(of).map(|file| model.names.values().filter(|other| *other == file).count());
    let Some(file) = model.file(of) else {
        assert_eq!(mount.stat(of).await.map(|attr| attr.ino), Err(Errno::ENOENT.into()), "{of} must not be there");
        return;
    };
    let attr = mount.stat(of).await.expect("stat");
    assert_eq!((attr.size, attr.mode), (file.content.len() as u64, file.mode), "attributes of {of}");
    assert_eq!(Some(attr.nlink as usize), links, "links of {of}");
    let content = mount.read(of).await.expect("read");
    if let Some(place) =
        (0..content.len().min(file.content.len())).find(|place| content[*place] != file.content[*place])
    {
        panic!("{of} differs at {place}: {} instead of {}", content[place], file.content[place]);
    }
    assert_eq!(content.len(), file.content.len(), "length of {of}");
}

async fn rounds(mounts: usize, seed: u64, steps: u64) {
    let world = World::new(1 << 30, 64 * 1024).await;
    let mut all = Vec::new();
    for _ in 0..mounts {
        all.push(world.mount().await);
    }
    let mut model = Model::default();
    let mut chance = Chance(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    for number in 1..=steps {
        step(&all, &mut model, &mut chance, number).await;
    }
    for of in ["f0", "f1", "f2", "f3", "f4"] {
        for mount in &all {
            look(mount, &mut model, of).await;
        }
    }
    for mount in all {
        mount.volume.close(std::time::Duration::from_secs(10)).await.expect("closed");
    }
    let again = world.mount().await;
    for of in ["f0", "f1", "f2", "f3", "f4"] {
        look(&again, &mut model, of).await;
    }
    again.volume.close(std::time::Duration::from_secs(10)).await.expect("closed");
}

#[test]
fn one_mount_behaves_like_a_local_file_system() {
    run(async {
        for seed in 1..=4 {
            rounds(1, seed, 400).await;
        }
    });
}

#[test]
fn two_mounts_see_each_others_changes_at_once() {
    run(async {
        for seed in 1..=6 {
            rounds(2, seed, 400).await;
        }
    });
}

#[test]
fn three_mounts_see_each_others_changes_at_once() {
    run(rounds(3, 77, 500));
}
