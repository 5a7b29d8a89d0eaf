//! A trace of a run: as a hash that equal runs share, and, on request, as a story to read.
//!
//! The story is not recorded on the first run, since it costs more than the run. A run that failed is repeated to
//! record it.

use std::collections::VecDeque;

use proto::slot::SlotId;

/// How many lines of the story are kept.
const LINES: usize = 200_000;

/// The trace of a run.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    hash: u64,
    story: Option<VecDeque<Line>>,
}

#[derive(Debug)]
struct Line {
    time: u64,
    /// The slot concerned; `None`: all of them.
    slot: Option<SlotId>,
    text: String,
}

impl Trace {
    /// A trace with or without a story.
    pub(crate) fn new(keeps_story: bool) -> Self {
        Self { hash: 0, story: keeps_story.then(VecDeque::new) }
    }

    /// Mixes an event into the hash.
    pub(crate) fn mix(&mut self, word: u64) {
        self.hash = (self.hash.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    /// The hash, which equal runs share.
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// Adds a line that concerns a slot, or all of them.
    pub(crate) fn tell(&mut self, time: u64, slot: Option<SlotId>, text: impl FnOnce() -> String) {
        if let Some(story) = &mut self.story {
            if story.len() >= LINES {
                story.pop_front();
            }
            story.push_back(Line { time, slot, text: text() });
        }
    }

    /// The last `lines` lines that concern a slot, oldest first; at most a quarter of them about clients.
    pub(crate) fn story(&self, slot: Option<SlotId>, lines: usize) -> Vec<String> {
        let mut clients = lines / 4;
        let concerns = |line: &&Line| slot.is_none() || line.slot.is_none() || line.slot == slot;
        let wanted = |line: &&Line| {
            if line.text.starts_with("client") {
                clients = clients.saturating_sub(1);
                return clients > 0;
            }
            true
        };
        let story = self.story.iter().flatten().rev().filter(concerns).filter(wanted).take(lines);
        let mut told: Vec<_> = story.map(|line| format!("{:>12.6} {}", line.time as f64 / 1e6, line.text)).collect();
        told.reverse();
        told
    }
}
