//! The first keys of a range: what a node lists, and what a page is merged from.

use std::collections::BinaryHeap;

use proto::peer::{List, Listed, WallTime};
use proto::range::KeyRange;
use proto::slot::SlotId;

use crate::record::Record;

/// How large a page may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageSize {
    /// The maximum number of keys, at least 1.
    pub keys: usize,
    /// The maximum number of bytes of keys, unless the first key alone is longer.
    pub bytes: usize,
}

/// The first of all the keys it is given, as many as fit.
#[derive(Debug)]
pub struct Page {
    size: PageSize,
    /// The greatest key is on top.
    keys: BinaryHeap<Box<[u8]>>,
    bytes: usize,
    /// Nothing is known from this key on: it, or one after it, did not fit.
    end: Option<Box<[u8]>>,
}

/// A node's answer to a [`List`], built slot by slot.
#[derive(Debug)]
pub struct Listing {
    range: KeyRange,
    /// `None`: only the number is requested.
    page: Option<Page>,
    count: u64,
    refused: Vec<SlotId>,
}

impl Page {
    /// An empty page.
    #[must_use]
    pub fn new(size: PageSize) -> Self {
        Self { size, keys: BinaryHeap::new(), bytes: 0, end: None }
    }

    /// Takes a new key if it is one of the first. `false`: neither this key nor any greater one is accepted.
    pub fn take(&mut self, key: &[u8]) -> bool {
        if self.end.as_ref().is_some_and(|end| key >= &**end) {
            return false;
        }
        self.bytes += key.len();
        self.keys.push(key.into());
        while self.keys.len() > self.size.keys || (self.bytes > self.size.bytes && self.keys.len() > 1) {
            self.drop_last();
        }
        true
    }

    /// Notes that nothing is known about keys from this one on.
    pub fn end_at(&mut self, key: &[u8]) {
        if self.end.as_ref().is_some_and(|end| key >= &**end) {
            return;
        }
        self.end = Some(key.into());
        while self.keys.peek().is_some_and(|last| &**last >= key) {
            let last = self.keys.pop();
            self.bytes -= last.map_or(0, |last| last.len());
        }
    }

    fn drop_last(&mut self) {
        let Some(last) = self.keys.pop() else { return };
        self.bytes -= last.len();
        // IMPORTANT: no greater key may be accepted later, even though there is room again: this one would be missing
        // before it.
        self.end = Some(last);
    }

    /// The keys, ascending, and whether there may be more after them.
    #[must_use]
    pub fn into_keys(self) -> (Vec<Box<[u8]>>, bool) {
        (self.keys.into_sorted_vec(), self.end.is_some())
    }
}

impl Listing {
    /// A listing with nothing in it yet. `bytes` limits the size of an answer.
    #[must_use]
    pub fn new(list: &List, bytes: usize) -> Self {
        let page = list.limit.map(|keys| Page::new(PageSize { keys, bytes }));
        Self { range: list.range.clone(), page, count: 0, refused: Vec::new() }
    }

    /// The start of the range.
    pub(crate) fn start(&self) -> &[u8] {
        &self.range.start
    }

    /// Takes the records of a slot from the start of the range on, in key order and including tombstones. Those that
    /// have expired by `now` are hidden and returned.
    pub(crate) fn take_slot<'a>(&mut self, now: WallTime, records: impl Iterator<Item = &'a Record>) -> Vec<Record> {
        let mut expired = Vec::new();
        let in_range = records.take_while(|record| self.range.ends_after(record.key()));
        let mut present = in_range.filter(|record| {
            if record.is_expired(now) {
                expired.push((*record).clone());
                return false;
            }
            !record.is_delete()
        });
        match &mut self.page {
            None => self.count += present.count() as u64,
            Some(page) => while present.next().is_some_and(|record| page.take(record.key())) {},
        }
        expired
    }

    /// Notes that the node does not answer for a slot.
    pub(crate) fn refuse(&mut self, slot: SlotId) {
        self.refused.push(slot);
    }

    /// The answer.
    #[must_use]
    pub fn finish(self) -> Listed {
        let (keys, has_more) = self.page.map(Page::into_keys).unwrap_or_default();
        Listed { refused: self.refused, has_more, count: self.count, keys }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(keys: usize, bytes: usize) -> Page {
        Page::new(PageSize { keys, bytes })
    }

    fn taken(mut page: Page, keys: &[&str]) -> (Vec<String>, bool) {
        keys.iter().for_each(|key| {
            page.take(key.as_bytes());
        });
        let (keys, has_more) = page.into_keys();
        (keys.iter().map(|key| String::from_utf8_lossy(key).into_owned()).collect(), has_more)
    }

    #[test]
    fn a_page_has_the_first_keys_whatever_their_order() {
        for keys in [["a", "b", "c", "d"], ["d", "c", "b", "a"], ["c", "a", "d", "b"]] {
            assert_eq!(taken(page(2, 100), &keys), (vec!["a".into(), "b".into()], true));
            assert!(!taken(page(4, 100), &keys).1);
        }
    }

    #[test]
    fn a_page_that_was_cut_by_its_bytes_has_no_hole() {
        // The long key is dropped. A short, greater one would then fit, but must not be accepted.
        assert_eq!(taken(page(9, 6), &["a", "llllll", "z"]), (vec!["a".into()], true));
        assert_eq!(taken(page(9, 6), &["a", "llllll", "z", "b"]), (vec!["a".into(), "b".into()], true));
    }

    #[test]
    fn one_key_always_fits() {
        assert_eq!(taken(page(9, 2), &["longer", "z"]), (vec!["longer".into()], true));
    }

    #[test]
    fn a_page_ends_where_nothing_more_is_known() {
        let mut page = page(9, 100);
        assert!(page.take(b"a") && page.take(b"c"));
        page.end_at(b"b");
        page.end_at(b"d");
        assert!(!page.take(b"b") && page.take(b"aa"));
        assert_eq!(taken(page, &[]), (vec!["a".into(), "aa".into()], true));
    }
}
