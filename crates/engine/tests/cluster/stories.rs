//! Scenario transcripts that read as stories: each file in `stories/` is played and must come out to the letter.
//!
//! A line that starts with `> ` is a command; the lines under it, up to an empty line, are what it prints. A line that
//! starts with `#` tells what is going on. After a change of behaviour, `UPDATE_STORIES=1 cargo test -p engine --test
//! cluster` writes the files anew, to be read before they are committed.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use crate::world::{BITS, World};
use proto::peer::Effect;

#[test]
fn every_story_comes_out_as_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stories");
    let mut files: Vec<_> = std::fs::read_dir(&folder).expect("the folder of stories").flatten().collect();
    files.sort_by_key(std::fs::DirEntry::path);
    assert!(files.len() >= 10, "stories are missing: {}", files.len());
    for file in files {
        let written = std::fs::read_to_string(file.path()).expect("a story").replace("\r\n", "\n");
        let played = play(&written);
        if std::env::var_os("UPDATE_STORIES").is_some() {
            std::fs::write(file.path(), played).expect("the story can be written");
        } else {
            assert_eq!(played, written, "{} comes out differently", file.path().display());
        }
    }
}

/// Plays a story and gives it with what its commands print now.
fn play(story: &str) -> String {
    let mut world = World::new();
    let mut out = String::new();
    let mut skipping = false;
    for line in story.lines() {
        if let Some(command) = line.strip_prefix("> ") {
            writeln!(out, "{line}").expect("a string takes text");
            out.push_str(&run(&mut world, command));
            skipping = true;
        } else if line.is_empty() || line.starts_with('#') {
            writeln!(out, "{line}").expect("a string takes text");
            skipping = false;
        } else {
            assert!(skipping, "what is this line? {line}");
        }
    }
    out
}

/// Carries out one command and gives what it prints.
fn run(world: &mut World, command: &str) -> String {
    let words: Vec<&str> = command.split(' ').collect();
    match words[..] {
        ["start", ref names @ ..] => names.iter().for_each(|name| world.start(name)),
        ["kill", ref names @ ..] => names.iter().for_each(|name| world.kill(name)),
        ["leave", name] => world.leave(name),
        ["run", span] => world.run(span_of(span)),
        ["cut", from, to] => {
            world.cut(from, to);
            world.cut(to, from);
        }
        ["heal"] => {
            world.cuts.clear();
            world.settle();
        }
        ["stop", "coordinator"] => world.stop_coordinator(),
        ["start-anew", "coordinator"] => world.start_coordinator(),
        ["unregister", name] => {
            let known = world.coordinator.unregister(world.now, &crate::world::addr_of(name));
            world.settle();
            return format!("{}\n", if known { "OK" } else { "not found" });
        }
        ["register-by-hand", name] => {
            let new =
                world.coordinator.register_by_hand(world.now, crate::world::addr_of(name)).expect("there is room");
            world.settle();
            return format!("{}\n", if new { "OK" } else { "already registered" });
        }
        ["put", at, key, value] => {
            let done = world.write(at, key, Effect::Put(value.as_bytes()));
            world.settle();
            return format!("{}\n", if done { "OK" } else { "not here" });
        }
        ["delete", at, key] => {
            let done = world.write(at, key, Effect::Delete);
            world.settle();
            return format!("{}\n", if done { "OK" } else { "not here" });
        }
        ["put-megabytes", at, key, count] => {
            let value = vec![b'x'; 1 << 20];
            for _ in 0..count.parse::<u32>().expect("a number") {
                assert!(world.write(at, key, Effect::Put(&value)));
            }
            world.settle();
        }
        ["get", at, key] => return said(world.read(at, key, false)),
        ["copy", at, key] => return said(world.read(at, key, true)),
        ["slot", key] => return format!("{}\n", World::slot_of(key).0),
        ["map"] => return map(world),
        ["lag", name] => return format!("{} messages\n", world.member(name).node.lag().items),
        ["keys"] => {
            return world.names().iter().fold(String::new(), |text, name| {
                format!("{text}{name} {} keys, {} records\n", world.member(name).node.keys(), records(world, name))
            });
        }
        ["log"] => {
            let mut lines = std::mem::take(&mut world.log);
            for name in world.names() {
                let events = world.member(&name).node.take_events();
                lines.extend(events.iter().map(|event| format!("{name}: {event:?}")));
            }
            return lines.iter().fold(String::new(), |text, line| format!("{text}{line}\n"));
        }
        _ => panic!("no such command: {command}"),
    }
    String::new()
}

fn said(read: Option<Option<String>>) -> String {
    match read {
        None => "not here\n".to_owned(),
        Some(None) => "absent\n".to_owned(),
        Some(Some(value)) if value.len() > 100 => format!("{} bytes\n", value.len()),
        Some(Some(value)) => format!("{value}\n"),
    }
}

fn records(world: &World, name: &str) -> u64 {
    let positions = world.member(name).node.positions(&BITS.slots().collect::<Vec<_>>());
    positions.iter().map(|(_, last)| last.seq).sum()
}

/// The map with names for incarnations and without the numbers that a reader need not follow.
fn map(world: &World) -> String {
    let mut text = String::new();
    for (slot, config) in world.coordinator.map().slots() {
        let names = |list: &[proto::id::Incarnation]| match list {
            [] => "-".to_owned(),
            list => list.iter().map(|one| world.name(*one)).collect::<Vec<_>>().join(","),
        };
        let primary = names(config.primary.as_slice());
        let (isr, learners) = (names(&config.isr), names(&config.learners));
        writeln!(text, "slot {} epoch {} primary {primary} isr {isr} learners {learners}", slot.0, config.epoch)
            .expect("a string takes text");
    }
    text
}

fn span_of(text: &str) -> Duration {
    let (number, unit) = text.split_at(text.len() - 1);
    assert_eq!(unit, "s", "spans are in seconds: {text}");
    Duration::from_secs_f64(number.parse().expect("a number of seconds"))
}
