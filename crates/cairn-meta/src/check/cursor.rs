//! Reading a keyspace in order, beside others.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use crate::error::StoreError;
use crate::layout::{self, Range};
use crate::snapshot::Snapshot;
use crate::view::View;

/// A row, or the key of one that does not decode.
pub(crate) type Row<T> = Result<T, Vec<u8>>;

/// The rows of a range, read a page at a time.
pub(crate) struct Cursor<'a, T, D> {
    snapshot: &'a Snapshot,
    next: Option<Vec<u8>>,
    until: Vec<u8>,
    decode: D,
    page: VecDeque<Row<T>>,
}

impl<'a, T, D: Fn(&[u8], &[u8]) -> Option<T>> Cursor<'a, T, D> {
    const PAGE: usize = 1024;

    pub(crate) fn new(snapshot: &'a Snapshot, (from, until): Range, decode: D) -> Self {
        Cursor { snapshot, next: Some(from), until, decode, page: VecDeque::new() }
    }

    /// The next row, which stays the next one.
    pub(crate) fn peek(&mut self) -> Result<Option<&Row<T>>, StoreError> {
        if self.page.is_empty()
            && let Some(from) = self.next.take()
        {
            let (page, decode, next) = (&mut self.page, &self.decode, &mut self.next);
            self.snapshot.scan(&from, &self.until, &mut |key, value| {
                page.push_back(decode(key, value).ok_or_else(|| key.to_vec()));
                if page.len() < Self::PAGE {
                    return ControlFlow::Continue(());
                }
                *next = Some(layout::after(key.to_vec()));
                ControlFlow::Break(())
            })?;
        }
        Ok(self.page.front())
    }

    pub(crate) fn take(&mut self) -> Result<Option<Row<T>>, StoreError> {
        self.peek()?;
        Ok(self.page.pop_front())
    }

    /// The next row if it decodes and `wanted` says so; rows that do not decode are handed to `unreadable` first.
    pub(crate) fn take_if(
        &mut self,
        wanted: impl Fn(&T) -> bool,
        mut unreadable: impl FnMut(Vec<u8>),
    ) -> Result<Option<T>, StoreError> {
        loop {
            match self.peek()? {
                Some(Ok(row)) if !wanted(row) => return Ok(None),
                None => return Ok(None),
                Some(_) => match self.page.pop_front() {
                    Some(Ok(row)) => return Ok(Some(row)),
                    Some(Err(key)) => unreadable(key),
                    None => return Ok(None),
                },
            }
        }
    }
}
