//! The content of one chunk: which bytes come from which blob, which are allocated zeros, which are holes.
//!
//! Offsets are bytes inside the chunk. Arithmetic alone: what the ranges point at is somebody else's concern.

use serde::{Deserialize, Serialize};

use crate::id::BlobId;

/// Where an extent's bytes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Source {
    /// Bytes of `blob` from `offset` (bytes into the blob) on.
    Blob { blob: BlobId, offset: u32 },
    /// Zeros that are allocated (`fallocate`): counted by quota, stored nowhere.
    Zeros,
}

/// A range of a chunk that is not a hole. `length` is never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Extent {
    pub offset: u32,
    pub length: u32,
    pub source: Source,
}

impl Extent {
    pub fn end(&self) -> u32 {
        self.offset + self.length
    }

    /// The part of this extent in `from..to`, which must overlap it.
    fn cut(&self, from: u32, to: u32) -> Extent {
        let start = self.offset.max(from);
        let end = self.end().min(to);
        let source = match self.source {
            Source::Blob { blob, offset } => Source::Blob { blob, offset: offset + (start - self.offset) },
            Source::Zeros => Source::Zeros,
        };
        Extent { offset: start, length: end - start, source }
    }
}

/// Extents of one chunk: sorted by offset, never overlapping, never empty; gaps are holes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtentList(Vec<Extent>);

impl ExtentList {
    /// Checks and adopts extents that were stored or received. `None` if they are unsorted, empty, overlapping or
    /// reach beyond `chunk_size`.
    pub fn from_extents(extents: Vec<Extent>, chunk_size: u32) -> Option<Self> {
        let mut end = 0u32;
        for extent in &extents {
            let extent_end = extent.offset.checked_add(extent.length)?;
            if extent.length == 0 || extent.offset < end || extent_end > chunk_size {
                return None;
            }
            if let Source::Blob { offset, .. } = extent.source {
                offset.checked_add(extent.length)?;
            }
            end = extent_end;
        }
        Some(ExtentList(extents))
    }

    pub fn as_slice(&self) -> &[Extent] {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes that are not holes.
    pub fn allocated(&self) -> u64 {
        self.0.iter().map(|extent| u64::from(extent.length)).sum()
    }

    /// Every blob that is pointed at, once for each extent that does.
    pub fn blobs(&self) -> impl Iterator<Item = BlobId> + '_ {
        self.0.iter().filter_map(|extent| match extent.source {
            Source::Blob { blob, .. } => Some(blob),
            Source::Zeros => None,
        })
    }

    /// The extents that overlap `from..to`, cut to it.
    pub fn slice(&self, from: u32, to: u32) -> impl Iterator<Item = Extent> + '_ {
        let first = self.0.partition_point(|extent| extent.end() <= from);
        self.0[first..].iter().take_while(move |extent| extent.offset < to).map(move |extent| extent.cut(from, to))
    }

    /// Makes `from..to` a hole.
    pub fn punch(&mut self, from: u32, to: u32) {
        self.splice(from, to, None);
    }

    /// Lays `extent` over whatever its range held.
    pub fn write(&mut self, extent: Extent) {
        if extent.length > 0 {
            self.splice(extent.offset, extent.end(), Some(extent));
        }
    }

    /// Allocates zeros in the holes of `from..to`; what is there stays.
    pub fn reserve(&mut self, from: u32, to: u32) {
        let mut holes = Vec::new();
        let mut cursor = from;
        for extent in self.slice(from, to) {
            if extent.offset > cursor {
                holes.push((cursor, extent.offset));
            }
            cursor = extent.end();
        }
        if cursor < to {
            holes.push((cursor, to));
        }
        for (start, end) in holes {
            self.write(Extent { offset: start, length: end - start, source: Source::Zeros });
        }
    }

    fn splice(&mut self, from: u32, to: u32, new: Option<Extent>) {
        if from >= to {
            return;
        }
        let first = self.0.partition_point(|extent| extent.end() <= from);
        let last = first + self.0[first..].partition_point(|extent| extent.offset < to);
        let mut replacement = Vec::with_capacity(3);
        if first < last {
            let left = self.0[first];
            if left.offset < from {
                replacement.push(left.cut(left.offset, from));
            }
        }
        replacement.extend(new);
        if first < last {
            let right = self.0[last - 1];
            if right.end() > to {
                replacement.push(right.cut(to, right.end()));
            }
        }
        self.0.splice(first..last, replacement);
        self.merge_around(first);
    }

    /// Joins neighbours near `index` that continue one another, so that appends do not grow the list without end.
    fn merge_around(&mut self, index: usize) {
        let mut position = index.saturating_sub(1);
        let end = (index + 3).min(self.0.len());
        let mut remaining = end.saturating_sub(position);
        while remaining > 1 && position + 1 < self.0.len() {
            let (left, right) = (self.0[position], self.0[position + 1]);
            let continues = left.end() == right.offset
                && match (left.source, right.source) {
                    (Source::Zeros, Source::Zeros) => true,
                    (Source::Blob { blob: a, offset: start }, Source::Blob { blob: b, offset: next }) => {
                        a == b && start + left.length == next
                    }
                    _ => false,
                };
            if continues {
                self.0[position].length += right.length;
                self.0.remove(position + 1);
            } else {
                position += 1;
            }
            remaining -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZE: u32 = 64;

    #[derive(Clone, Debug)]
    enum Step {
        Write(u32, u32, u64, u32),
        Punch(u32, u32),
        Reserve(u32, u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        let range = (0..SIZE, 0..=SIZE).prop_map(|(a, b)| (a.min(b), a.max(b)));
        prop_oneof![
            (range.clone(), 1u64..4, 0u32..8).prop_map(|((a, b), blob, offset)| Step::Write(a, b, blob, offset)),
            range.clone().prop_map(|(a, b)| Step::Punch(a, b)),
            range.prop_map(|(a, b)| Step::Reserve(a, b)),
        ]
    }

    proptest! {
        /// A list of extents behaves as an array that says, for each byte, where it comes from.
        #[test]
        fn agrees_with_a_byte_map(steps in prop::collection::vec(step(), 0..40)) {
            let mut list = ExtentList::default();
            let mut model: Vec<Option<Option<(u64, u32)>>> = vec![None; SIZE as usize];
            for step in steps {
                match step {
                    Step::Write(from, to, blob, offset) => {
                        let source = Source::Blob { blob: BlobId(blob), offset };
                        list.write(Extent { offset: from, length: to - from, source });
                        for byte in from..to {
                            model[byte as usize] = Some(Some((blob, offset + byte - from)));
                        }
                    }
                    Step::Punch(from, to) => {
                        list.punch(from, to);
                        model[from as usize..to as usize].fill(None);
                    }
                    Step::Reserve(from, to) => {
                        list.reserve(from, to);
                        for byte in &mut model[from as usize..to as usize] {
                            byte.get_or_insert(None);
                        }
                    }
                }
                prop_assert!(ExtentList::from_extents(list.as_slice().to_vec(), SIZE).is_some());
            }
            let mut seen = vec![None; SIZE as usize];
            for extent in list.slice(0, SIZE) {
                for byte in extent.offset..extent.end() {
                    seen[byte as usize] = Some(match extent.source {
                        Source::Blob { blob, offset } => Some((blob.0, offset + byte - extent.offset)),
                        Source::Zeros => None,
                    });
                }
            }
            prop_assert_eq!(&seen, &model);
            prop_assert_eq!(list.allocated(), model.iter().flatten().count() as u64);
        }
    }

    #[test]
    fn appended_pieces_of_one_blob_become_one_extent() {
        let mut list = ExtentList::default();
        for piece in 0..10 {
            list.write(Extent {
                offset: piece * 4,
                length: 4,
                source: Source::Blob { blob: BlobId(1), offset: piece * 4 },
            });
        }
        assert_eq!(list.as_slice().len(), 1);
    }
}
