use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

const CHUNK: u32 = 32;
const FILE: usize = 4 * CHUNK as usize;

#[derive(Clone, Debug)]
enum Step {
    Write { at: usize, length: usize, value: u8 },
    Truncate(usize),
    Freeze(bool),
    Take(u64),
    Applied,
    Failed,
    Read { at: usize, length: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..FILE, 1usize..50, 1u8..=255).prop_map(|(at, length, value)| Step::Write { at, length, value }),
        1 => (0..=FILE).prop_map(Step::Truncate),
        2 => any::<bool>().prop_map(Step::Freeze),
        3 => (1u64..80).prop_map(Step::Take),
        2 => Just(Step::Applied),
        1 => Just(Step::Failed),
        3 => (0..FILE, 1usize..60).prop_map(|(at, length)| Step::Read { at, length }),
    ]
}

/// What the layers and the server hold, byte by byte.
#[derive(Default)]
struct Model {
    server: Vec<Option<u8>>,
    frozen: Vec<Option<u8>>,
    dirty: Vec<Option<u8>>,
}

impl Model {
    fn new() -> Self {
        Model { server: vec![None; FILE], frozen: vec![None; FILE], dirty: vec![None; FILE] }
    }

    fn byte(&self, at: usize) -> Option<u8> {
        self.dirty[at].or(self.frozen[at]).or(self.server[at])
    }

    fn grown(&self) -> u64 {
        (0..FILE)
            .filter(|at| self.server[*at].is_none() && (self.dirty[*at].is_some() || self.frozen[*at].is_some()))
            .count() as u64
    }

    fn end(&self) -> u64 {
        (0..FILE).rev().find(|at| self.dirty[*at].or(self.frozen[*at]).is_some()).map_or(0, |at| at as u64 + 1)
    }
}

fn split(at: usize, length: usize) -> Vec<(u32, u32, u32)> {
    let end = (at + length).min(FILE);
    let chunk_size = CHUNK as usize;
    (at / chunk_size..end.div_ceil(chunk_size))
        .map(|chunk| {
            let base = chunk * chunk_size;
            (chunk as u32, (at.max(base) - base) as u32, (end.min(base + chunk_size) - base) as u32)
        })
        .collect()
}

fn check(overlay: &Overlay, model: &Model, at: usize, length: usize) {
    for (chunk, from, to) in split(at, length) {
        let mut cursor = from;
        for piece in overlay.pieces(chunk, from, to) {
            let base = (chunk * CHUNK) as usize;
            match piece {
                Piece::Data(data) => {
                    for (index, byte) in data.iter().enumerate() {
                        let place = base + cursor as usize + index;
                        assert_eq!(model.dirty[place].or(model.frozen[place]), Some(*byte), "at {place}");
                    }
                    cursor += data.len() as u32;
                }
                Piece::Below { from, to } => {
                    assert_eq!(from, cursor);
                    for place in from..to {
                        let place = base + place as usize;
                        assert_eq!(model.dirty[place].or(model.frozen[place]), None, "at {place}");
                    }
                    cursor = to;
                }
            }
        }
        assert_eq!(cursor, to);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn behaves_like_bytes_in_three_layers(steps in prop::collection::vec(step(), 1..60)) {
        let mut overlay = Overlay::new(CHUNK);
        let mut model = Model::new();
        let mut batches: VecDeque<Vec<FrozenChunk>> = VecDeque::new();
        for step in steps {
            match step {
                Step::Write { at, length, value } => {
                    for (chunk, from, to) in split(at, length) {
                        let base = (chunk * CHUNK) as usize;
                        let grown = overlay
                            .below(chunk, from, to)
                            .into_iter()
                            .flat_map(|(start, end)| start..end)
                            .filter(|place| model.server[base + *place as usize].is_none())
                            .count() as u64;
                        overlay.write(chunk, from, &vec![value; (to - from) as usize], grown);
                        model.dirty[base + from as usize..base + to as usize].fill(Some(value));
                    }
                }
                // The owner of an overlay waits for a flush before it truncates.
                Step::Truncate(size) if !overlay.has_frozen() => {
                    overlay.truncate(size as u64);
                    model.dirty[size..].fill(None);
                    model.server[size..].fill(None);
                }
                Step::Truncate(_) => {}
                Step::Freeze(all) => {
                    let which = if all { Freeze::All } else { Freeze::FullChunks };
                    let moved = overlay.freeze(which);
                    let mut any = false;
                    for chunk in 0..FILE / CHUNK as usize {
                        let range = chunk * CHUNK as usize..(chunk + 1) * CHUNK as usize;
                        let free = model.frozen[range.clone()].iter().all(Option::is_none);
                        let full = model.dirty[range.clone()].iter().all(Option::is_some);
                        let some = model.dirty[range.clone()].iter().any(Option::is_some);
                        if free && some && (all || full) {
                            any = true;
                            for place in range {
                                model.frozen[place] = model.dirty[place].take();
                            }
                        }
                    }
                    prop_assert_eq!(moved, any);
                }
                Step::Take(most) => {
                    let batch = overlay.take_batch(most);
                    let in_hand: Vec<u32> = batches.iter().flatten().map(|frozen: &FrozenChunk| frozen.chunk).collect();
                    prop_assert!(batch.iter().all(|frozen| !in_hand.contains(&frozen.chunk)), "taken once");
                    batches.push_back(batch);
                }
                // Batches are applied in the order in which they were taken.
                Step::Applied => {
                    let Some(batch) = batches.pop_front() else { continue };
                    for frozen in &batch {
                        let base = (frozen.chunk * CHUNK) as usize;
                        for segment in &frozen.segments {
                            for (index, byte) in segment.data.iter().enumerate() {
                                let place = base + segment.offset as usize + index;
                                prop_assert_eq!(model.frozen[place], Some(*byte));
                            }
                        }
                        for place in base..base + CHUNK as usize {
                            let byte = model.frozen[place].take();
                            if byte.is_some() {
                                model.server[place] = byte;
                            }
                        }
                    }
                    overlay.release(batch.iter().map(|frozen| frozen.chunk));
                }
                // What is in hand then is sent again.
                Step::Failed => {
                    batches.clear();
                    overlay.put_back();
                }
                Step::Read { at, length } => check(&overlay, &model, at, length),
            }
            check(&overlay, &model, 0, FILE);
            prop_assert_eq!(overlay.end(), model.end());
            prop_assert!(overlay.grown() <= overlay.bytes());
            let held = |layer: &[Option<u8>]| layer.iter().flatten().count() as u64;
            prop_assert_eq!(overlay.bytes(), held(&model.dirty) + held(&model.frozen));
            prop_assert_eq!(overlay.is_clean(), overlay.bytes() == 0);
        }
    }

    #[test]
    fn growth_is_exact_while_flushes_succeed(
        steps in prop::collection::vec(step().prop_filter("no loss", |step| {
            !matches!(step, Step::Truncate(_))
        }), 1..60),
    ) {
        let mut overlay = Overlay::new(CHUNK);
        let mut model = Model::new();
        for step in steps {
            match step {
                Step::Write { at, length, value } => {
                    for (chunk, from, to) in split(at, length) {
                        let base = (chunk * CHUNK) as usize;
                        let grown = overlay.below(chunk, from, to).into_iter().flat_map(|(start, end)| start..end)
                            .filter(|place| model.server[base + *place as usize].is_none()).count() as u64;
                        overlay.write(chunk, from, &vec![value; (to - from) as usize], grown);
                        model.dirty[base + from as usize..base + to as usize].fill(Some(value));
                    }
                }
                Step::Freeze(_) if !overlay.has_frozen() => {
                        overlay.freeze(Freeze::All);
                        for place in 0..FILE {
                            if model.dirty[place].is_some() {
                                model.frozen[place] = model.dirty[place].take();
                            }
                        }
                }
                Step::Applied => {
                    let batch = overlay.take_batch(u64::MAX);
                    overlay.release(batch.iter().map(|frozen| frozen.chunk));
                    for place in 0..FILE {
                        if let Some(byte) = model.frozen[place].take() {
                            model.server[place] = Some(byte);
                        }
                    }
                }
                _ => {}
            }
            prop_assert_eq!(overlay.grown(), model.grown());
            prop_assert_eq!((0..FILE).filter(|at| model.byte(*at).is_some()).count() as u64,
                model.grown() + model.server.iter().flatten().count() as u64);
        }
    }
}
