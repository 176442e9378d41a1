//! Segments and the index over them: finding, reading, appending, evicting.
//!
//! The index is in memory: about 64 bytes a block, at most [`BLOCKS_MAX`] blocks. A segment is the unit of eviction; the
//! one that was read from least recently goes first, other volumes' before this one's. Whoever reads holds the file
//! open, so evicting under a reader is harmless. Every read verifies; what is damaged is forgotten.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use cairn_locks::Mutex;

use super::format::{self, HEADER, RECORD, Record, SegmentId};
use crate::cache::fetch::Want;
use crate::cache::{BlockKey, Part};
use crate::lock_order;
use crate::private;

/// Most blocks of a cache: bounds the memory that its index takes (about 64 MiB).
const BLOCKS_MAX: usize = 1 << 20;
/// A cache has about so many segments: open files, and steps of eviction.
const SEGMENTS: u64 = 256;
const SEGMENT_MIN: u64 = 1024 * 1024;
const SEGMENT_MAX: u64 = 1024 * 1024 * 1024;
/// Smallest cache, in bytes.
pub(super) const LIMIT_MIN: u64 = 16 * SEGMENT_MIN;
/// Part of its file system that a cache leaves free, as a divisor, and the most that it leaves, in bytes.
const FREE_DIVISOR: u64 = 20;
const FREE_MAX: u64 = 10 * 1024 * 1024 * 1024;
/// The free space is looked at after so many bytes.
const FREE_CHECK: u64 = 16 * 1024 * 1024;

#[derive(Clone, Copy, Debug)]
struct Place {
    segment: SegmentId,
    start: u32,
    length: u32,
    position: u32,
    crc: u32,
}

#[derive(Debug)]
struct Segment {
    data: Arc<File>,
    blocks: Vec<BlockKey>,
    /// Of both files.
    bytes: u64,
    /// Value of [`State::clock`] when it was read from or written to last.
    used: u64,
    /// It was read from, so its file's time must be set before it is closed: recency survives a remount that way.
    touched: bool,
}

#[derive(Debug, Default)]
struct State {
    index: HashMap<BlockKey, Place>,
    segments: BTreeMap<SegmentId, Segment>,
    /// Folders of other volumes, least recently used last, with their bytes.
    foreign: Vec<(PathBuf, u64)>,
    /// Of all segments and folders.
    bytes: u64,
    clock: u64,
}

/// A part of a block that is in the cache.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    record: Record,
    segment: SegmentId,
    data: Arc<File>,
}

/// The segment that is being written.
#[derive(Debug)]
struct Active {
    id: SegmentId,
    data: Arc<File>,
    map: File,
    position: u32,
    records: u64,
}

/// What the one writer knows.
#[derive(Debug, Default)]
pub(super) struct Writer {
    active: Option<Active>,
    since_check: u64,
}

#[derive(Debug)]
pub(super) struct Store {
    folder: PathBuf,
    limit: u64,
    segment_size: u64,
    state: Mutex<State, lock_order::DiskCacheIndex>,
}

impl State {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn remove_segment(&mut self, id: SegmentId) {
        let Some(segment) = self.segments.remove(&id) else { return };
        self.bytes = self.bytes.saturating_sub(segment.bytes);
        for key in &segment.blocks {
            if self.index.get(key).is_some_and(|place| place.segment == id) {
                self.index.remove(key);
            }
        }
    }
}

impl Store {
    /// Opens what `directory` has of `volume`. Takes a moment for each gibibyte.
    pub(super) fn open(directory: &Path, volume: &str, limit: u64) -> io::Result<(Store, Writer)> {
        let folder = directory.join(volume);
        private::folder(&folder)?;
        let segment_size = (limit / SEGMENTS).clamp(SEGMENT_MIN, SEGMENT_MAX);
        let mut state = State { foreign: foreign_folders(directory, volume)?, ..State::default() };
        let mut found: Vec<(SystemTime, SegmentId)> = Vec::new();
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            if let Some(id) = SegmentId::of_data_file(&entry.path()) {
                found.push((entry.metadata()?.modified()?, id));
            }
        }
        found.sort_unstable();
        let newest = found.iter().map(|(_, id)| *id).max();
        let mut writer = Writer::default();
        for (_, id) in found {
            match load(&folder, id)? {
                Some(Loaded { data, map, records }) => {
                    let position = records.iter().map(|record| record.position + record.length).max().unwrap_or(0);
                    let bytes = u64::from(position) + (HEADER + records.len() * RECORD) as u64;
                    let used = state.tick();
                    for record in &records {
                        let place = Place {
                            segment: id,
                            start: record.start,
                            length: record.length,
                            position: record.position,
                            crc: record.crc,
                        };
                        state.index.insert(record.key(), place);
                    }
                    if Some(id) == newest && u64::from(position) < segment_size {
                        let records = records.len() as u64;
                        writer.active = Some(Active { id, data: Arc::clone(&data), map, position, records });
                    }
                    let blocks = records.iter().map(Record::key).collect();
                    state.segments.insert(id, Segment { data, blocks, bytes, used, touched: false });
                    state.bytes += bytes;
                }
                None => remove_files(&folder, id)?,
            }
        }
        state.bytes += state.foreign.iter().map(|(_, bytes)| bytes).sum::<u64>();
        let store = Store { folder, limit, segment_size, state: Mutex::new(state) };
        store.make_room(0, &mut writer)?;
        Ok((store, writer))
    }

    /// Bytes on the disk, other volumes' included.
    pub(super) fn bytes(&self) -> u64 {
        self.state.lock().bytes
    }

    pub(super) fn find(&self, want: Want) -> Option<Found> {
        let mut state = self.state.lock();
        let place = *state.index.get(&want.key())?;
        if place.start > want.from || place.start + place.length < want.to {
            return None;
        }
        let clock = state.tick();
        let segment = state.segments.get_mut(&place.segment)?;
        segment.used = clock;
        segment.touched = true;
        let Place { segment: id, start, length, position, crc } = place;
        let record = Record { blob: want.blob, start, length, position, crc };
        Some(Found { record, segment: id, data: Arc::clone(&segment.data) })
    }

    /// Reads and verifies, what lies together with one system call. `None`: it is damaged, and forgotten from now on.
    pub(super) fn read(&self, found: &[Found]) -> Vec<Option<Part>> {
        let follows = |left: &Found, right: &Found| {
            left.segment == right.segment && left.record.position + left.record.length == right.record.position
        };
        let mut parts = Vec::with_capacity(found.len());
        for run in found.chunk_by(follows) {
            let contents = read_run(run);
            parts.extend(run.iter().zip(contents).map(|(found, content)| self.verified(found, content)));
        }
        parts
    }

    fn verified(&self, found: &Found, content: Option<Vec<u8>>) -> Option<Part> {
        let record = &found.record;
        if let Some(content) = content
            && crc32c::crc32c(&content) == record.crc
        {
            return Some(Part { offset: record.start, data: Bytes::from(content) });
        }
        let file = found.segment.data_path(&self.folder);
        tracing::warn!(file = %file.display(), position = record.position, blob = %record.blob,
            "a block of the disk cache is damaged; it is fetched again");
        let mut state = self.state.lock();
        let same = |place: &Place| (place.segment, place.position) == (found.segment, record.position);
        if state.index.get(&record.key()).is_some_and(same) {
            state.index.remove(&record.key());
        }
        None
    }

    /// Appends a part, evicting what must go for it. `false` if it is there already or the disk has no room.
    pub(super) fn append(&self, writer: &mut Writer, key: BlockKey, part: &Part) -> io::Result<bool> {
        let length = part.data.len() as u32;
        let want = Want { blob: key.blob, from: part.offset, to: part.offset + length };
        if length == 0 || self.state.lock().index.get(&key).is_some_and(|place| covers(place, want)) {
            return Ok(false);
        }
        let full = |active: &Active| u64::from(active.position) + u64::from(length) > self.segment_size;
        if writer.active.as_ref().is_some_and(full) {
            writer.active = None;
        }
        let check_due = writer.since_check >= FREE_CHECK;
        if (writer.active.is_none() || check_due) && !self.make_room(self.segment_size, writer)? {
            return Ok(false);
        }
        if writer.active.is_none() {
            writer.active = Some(self.new_segment()?);
        }
        let Some(active) = &mut writer.active else { return Ok(false) };
        let record = Record {
            blob: key.blob,
            start: part.offset,
            length,
            position: active.position,
            crc: crc32c::crc32c(&part.data),
        };
        active.data.write_all_at(&part.data, u64::from(record.position))?;
        let map_position = HEADER as u64 + active.records * RECORD as u64;
        active.map.write_all_at(&record.encode(), map_position)?;
        active.position += length;
        active.records += 1;
        writer.since_check += u64::from(length);
        let bytes = u64::from(length) + RECORD as u64;
        let mut state = self.state.lock();
        let used = state.tick();
        state.bytes += bytes;
        let Some(segment) = state.segments.get_mut(&active.id) else { return Ok(false) };
        segment.used = used;
        segment.bytes += bytes;
        segment.blocks.push(key);
        let Record { start, length, position, crc, .. } = record;
        state.index.insert(key, Place { segment: active.id, start, length, position, crc });
        Ok(true)
    }

    fn new_segment(&self) -> io::Result<Active> {
        let mut state = self.state.lock();
        let id = SegmentId(state.segments.last_key_value().map_or(1, |(id, _)| id.0 + 1));
        let create = |path: PathBuf| private::file().truncate(true).open(path);
        let data = Arc::new(create(id.data_path(&self.folder))?);
        let map = create(id.map_path(&self.folder))?;
        map.write_all_at(&format::header(), 0)?;
        let used = state.tick();
        let bytes = HEADER as u64;
        state.bytes += bytes;
        let segment = Segment { data: Arc::clone(&data), blocks: Vec::new(), bytes, used, touched: false };
        state.segments.insert(id, segment);
        Ok(Active { id, data, map, position: 0, records: 0 })
    }

    /// Evicts until `more` bytes fit the limit and the file system keeps its free space. `false` if there is nothing
    /// left to evict and still no free space.
    fn make_room(&self, more: u64, writer: &mut Writer) -> io::Result<bool> {
        writer.since_check = 0;
        loop {
            // The active segment has been counted with what it may still become.
            let active = writer.active.as_ref().map(|active| active.id);
            let growth = if active.is_some() { 0 } else { more };
            let enough_free = has_free_space(&self.folder, growth)?;
            let victim = {
                let mut state = self.state.lock();
                let fits = state.bytes + growth <= self.limit && state.index.len() < BLOCKS_MAX;
                if fits && enough_free {
                    return Ok(true);
                }
                if let Some((folder, bytes)) = state.foreign.pop() {
                    state.bytes = state.bytes.saturating_sub(bytes);
                    Victim::Folder(folder)
                } else {
                    let idle = state.segments.iter().filter(|(id, _)| Some(**id) != active);
                    match idle.min_by_key(|(_, segment)| segment.used).map(|(id, _)| *id) {
                        Some(id) => {
                            state.remove_segment(id);
                            Victim::Segment(id)
                        }
                        None => return Ok(enough_free),
                    }
                }
            };
            match victim {
                Victim::Folder(folder) => std::fs::remove_dir_all(folder)?,
                Victim::Segment(id) => remove_files(&self.folder, id)?,
            }
        }
    }

    /// Notes on the disk which segments were used, for the order of eviction after a remount.
    pub(super) fn note_use(&self) {
        let mut state = self.state.lock();
        let mut used: Vec<&mut Segment> = state.segments.values_mut().filter(|segment| segment.touched).collect();
        used.sort_by_key(|segment| segment.used);
        for segment in used {
            segment.touched = false;
            if let Err(error) = segment.data.set_modified(SystemTime::now()) {
                tracing::debug!(%error, "the time of a segment of the disk cache cannot be set");
            }
        }
    }
}

/// Reads blocks that follow one another in one segment, each into memory of its own: they leave the memory cache one by
/// one. `None` for those that the file does not have whole.
fn read_run(run: &[Found]) -> Vec<Option<Vec<u8>>> {
    let mut contents: Vec<Vec<u8>> = run.iter().map(|found| vec![0; found.record.length as usize]).collect();
    let wanted: usize = contents.iter().map(Vec::len).sum();
    if let Some(first) = run.first() {
        let mut slices: Vec<io::IoSliceMut<'_>> =
            contents.iter_mut().map(|content| io::IoSliceMut::new(content)).collect();
        let read = rustix::io::preadv(&first.data, &mut slices, u64::from(first.record.position));
        if read.is_ok_and(|read| read == wanted) {
            return contents.into_iter().map(Some).collect();
        }
    }
    // Cut short, or an error in the middle: each for itself.
    let each = run.iter().zip(contents).map(|(found, mut content)| {
        let read = found.data.read_exact_at(&mut content, u64::from(found.record.position));
        read.is_ok().then_some(content)
    });
    each.collect()
}

/// A segment as it was found.
struct Loaded {
    data: Arc<File>,
    map: File,
    records: Vec<Record>,
}

enum Victim {
    Folder(PathBuf),
    Segment(SegmentId),
}

fn covers(place: &Place, want: Want) -> bool {
    place.start <= want.from && place.start + place.length >= want.to
}

/// Both files of a segment and its records that lie within the data; `None` if it is not usable.
fn load(folder: &Path, id: SegmentId) -> io::Result<Option<Loaded>> {
    let open = |path: PathBuf| OpenOptions::new().read(true).write(true).open(path);
    let data = open(id.data_path(folder))?;
    let map = match open(id.map_path(folder)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        map => map?,
    };
    let mut bytes = vec![0; map.metadata()?.len() as usize];
    map.read_exact_at(&mut bytes, 0)?;
    let Some(mut records) = format::decode_map(&bytes) else { return Ok(None) };
    let end = data.metadata()?.len();
    let whole = |record: &Record| u64::from(record.position) + u64::from(record.length) <= end;
    records.truncate(records.iter().take_while(|record| whole(record)).count());
    // What follows the last good record must not come back when new ones are written before it.
    map.set_len((HEADER + records.len() * RECORD) as u64)?;
    Ok(Some(Loaded { data: Arc::new(data), map, records }))
}

pub(super) fn remove_files(folder: &Path, id: SegmentId) -> io::Result<()> {
    for path in [id.map_path(folder), id.data_path(folder)] {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Folders of other volumes with their bytes, least recently used last.
fn foreign_folders(directory: &Path, own: &str) -> io::Result<Vec<(PathBuf, u64)>> {
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() || entry.file_name() == own || !is_volume(&entry.path()) {
            continue;
        }
        let mut bytes = 0;
        let mut used = SystemTime::UNIX_EPOCH;
        for file in std::fs::read_dir(entry.path())? {
            let about = file?.metadata()?;
            bytes += about.len();
            used = used.max(about.modified()?);
        }
        folders.push((used, entry.path(), bytes));
    }
    folders.sort_by_key(|folder| std::cmp::Reverse(folder.0));
    Ok(folders.into_iter().map(|(_, path, bytes)| (path, bytes)).collect())
}

/// Whether a folder is named as a volume's is: nothing else is ever removed.
pub(super) fn is_volume(folder: &Path) -> bool {
    let name = folder.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.parse::<cairn_types::VolumeId>().is_ok())
}

/// Whether the file system keeps its free space when `growth` more bytes are written.
fn has_free_space(folder: &Path, growth: u64) -> io::Result<bool> {
    let system = rustix::fs::statvfs(folder)?;
    let total = system.f_blocks * system.f_frsize;
    Ok(system.f_bavail * system.f_frsize >= (total / FREE_DIVISOR).min(FREE_MAX) + growth)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap as Model;

    use cairn_types::BlobId;
    use proptest::prelude::*;

    use super::*;
    use crate::cache::BLOCK;

    const VOLUME: &str = "abcdefghij";

    fn content(blob: u64, length: usize) -> Part {
        Part { offset: 0, data: Bytes::from(vec![blob as u8 ^ length as u8; length]) }
    }

    fn key(blob: u64) -> BlockKey {
        BlockKey { blob: BlobId(blob), index: 0 }
    }

    fn want(blob: u64, to: u32) -> Want {
        Want { blob: BlobId(blob), from: 0, to }
    }

    fn open(directory: &Path) -> (Store, Writer) {
        Store::open(directory, VOLUME, LIMIT_MIN).expect("opened")
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Against a map of what was put: what is found is right, whatever was evicted, reopened or torn.
        #[test]
        fn it_never_answers_what_was_not_put(
            steps in prop::collection::vec((0u64..40, 1usize..BLOCK as usize, 0u8..12), 1..150),
        ) {
            let scratch = tempfile::tempdir().expect("scratch");
            let (mut store, mut writer) = open(scratch.path());
            let mut put: Model<u64, Part> = Model::new();
            for (blob, length, action) in steps {
                match action {
                    0 => {
                        drop((store, writer));
                        (store, writer) = open(scratch.path());
                    }
                    1 => {
                        // A crash: the end of the newest data is lost, or the map's last record is torn.
                        drop((store, writer));
                        tear(&scratch.path().join(VOLUME), length);
                        (store, writer) = open(scratch.path());
                    }
                    2..8 => {
                        let longer = put.get(&blob).is_none_or(|part| part.data.len() < length);
                        let part = if longer { content(blob, length) } else { put[&blob].clone() };
                        store.append(&mut writer, key(blob), &part).expect("written");
                        put.insert(blob, part);
                    }
                    _ => {
                        let to = length as u32;
                        if let Some(found) = store.find(want(blob, to))
                            && let Some(Some(part)) = store.read(&[found]).pop() {
                            prop_assert!(part.data.len() >= length);
                            // Which of the contents that were put, the first bytes tell.
                            prop_assert_eq!(&part.data, &content(blob, part.data.len()).data);
                        }
                    }
                }
                prop_assert!(store.bytes() <= LIMIT_MIN + SEGMENT_MIN);
            }
        }
    }

    /// Cuts bytes off the newest files.
    fn tear(folder: &Path, amount: usize) {
        let newest = std::fs::read_dir(folder)
            .expect("listed")
            .filter_map(|entry| SegmentId::of_data_file(&entry.expect("entry").path()))
            .max();
        let Some(id) = newest else { return };
        let path = if amount.is_multiple_of(2) { id.data_path(folder) } else { id.map_path(folder) };
        let file = OpenOptions::new().write(true).open(path).expect("opened");
        let length = file.metadata().expect("length").len();
        file.set_len(length.saturating_sub(amount as u64)).expect("cut");
    }

    #[test]
    fn a_remount_finds_everything_and_damage_is_forgotten() {
        let scratch = tempfile::tempdir().expect("scratch");
        let (store, mut writer) = open(scratch.path());
        for blob in 0..20 {
            assert!(store.append(&mut writer, key(blob), &content(blob, 1000)).expect("written"));
            assert!(!store.append(&mut writer, key(blob), &content(blob, 1000)).expect("there already"));
        }
        drop((store, writer));
        let data = SegmentId(1).data_path(&scratch.path().join(VOLUME));
        let file = OpenOptions::new().write(true).open(data).expect("opened");
        file.write_all_at(b"x", 5 * 1000 + 17).expect("damaged");
        let (store, _) = open(scratch.path());
        for blob in 0..20 {
            let found = store.find(want(blob, 1000)).expect("indexed");
            assert_eq!(store.read(&[found])[0].is_some(), blob != 5);
        }
        assert!(store.find(want(5, 1000)).is_none());
    }

    #[test]
    fn the_least_recently_used_goes_first_and_other_volumes_before() {
        let scratch = tempfile::tempdir().expect("scratch");
        let other = scratch.path().join("zyxwvutsrq");
        std::fs::create_dir(&other).expect("made");
        std::fs::write(other.join("00000001.data"), vec![0; 1 << 20]).expect("written");
        std::fs::write(scratch.path().join("notes.txt"), b"not ours").expect("written");
        let (store, mut writer) = open(scratch.path());
        let block = BLOCK as usize;
        let blocks = LIMIT_MIN / u64::from(BLOCK);
        for blob in 0..blocks {
            store.append(&mut writer, key(blob), &content(blob, block)).expect("written");
            assert!(store.find(want(0, 1)).is_some(), "what is read again and again stays");
        }
        assert!(!other.exists());
        assert!(scratch.path().join("notes.txt").exists());
        for blob in blocks..2 * blocks {
            store.append(&mut writer, key(blob), &content(blob, block)).expect("written");
            assert!(store.find(want(0, 1)).is_some());
        }
        assert!(store.find(want(9, 1)).is_none(), "what was not read is evicted");
        assert!(store.bytes() <= LIMIT_MIN);
    }
}
