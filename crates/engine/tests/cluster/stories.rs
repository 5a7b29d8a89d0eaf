//! Scenario transcripts that read as stories: each file in `stories/` is replayed and must match to the letter.
//!
//! A line that starts with `> ` is a command; the lines below it, up to an empty line, are its output. A line that
//! starts with `#` says what is going on. After a change of behavior, `UPDATE_STORIES=1 cargo test -p engine --test
//! cluster` rewrites the files; review them before committing.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use crate::world::{BITS, World};
use engine::coordinator::JoinRequest;
use engine::output::JoinError;
use proto::level::AckLevel;
use proto::peer::{Change, Condition, Effect, Expiry, Identity, Modify, ReplyMode, Write, Writes};
use proto::session::NodeMessage;

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

/// Plays a story and returns it with the current output of its commands.
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

/// Carries out one command and returns its output.
fn run(world: &mut World, command: &str) -> String {
    let words: Vec<&str> = command.split(' ').collect();
    match words[..] {
        ["start", ref names @ ..] if *names != ["coordinator"] => names.iter().for_each(|name| world.start(name)),
        ["boot", ref names @ ..] => names.iter().for_each(|name| world.boot(name)),
        ["crash", ref names @ ..] => names.iter().for_each(|name| world.crash(name, None)),
        ["power-cut", name, lost] => world.crash(name, Some(lost.parse().expect("a number"))),
        ["kill", ref names @ ..] => names.iter().for_each(|name| world.kill(name)),
        ["leave", name] => world.leave(name),
        ["run", span] => world.run(span_of(span)),
        ["block-link", from, to] => {
            world.blocked_links.insert((from.to_owned(), to.to_owned()));
        }
        ["cut", from, to] => {
            world.cut(from, to);
            world.cut(to, from);
        }
        ["heal"] => world.heal(),
        ["heal", from, to] => world.heal_between(from, to),
        ["stop", "coordinator"] => world.stop_coordinator(),
        ["start", "coordinator"] => world.start_coordinator(true),
        ["start-anew", "coordinator"] => world.start_coordinator(false),
        ["copy", "state"] => world.copy_state(),
        ["put-back", "state"] => world.put_state_back(),
        ["forget", name] => {
            let known = world.coordinator.forget(world.now, &crate::world::addr_of(name));
            world.settle();
            return format!("{}\n", if known { "OK" } else { "not found" });
        }
        ["accept-loss"] => {
            let accepted = world.coordinator.accept_loss(world.now, None);
            world.settle();
            return accepted.map_or_else(
                |error| format!("{error}\n"),
                |accepted| format!("{} slots anew, {} with what is left\n", accepted.anew, accepted.unproven),
            );
        }
        ["moves-at-once", limit] => world.limit_moves(limit.parse().expect("a number")),
        ["heartbeat", name] => {
            let known = world.coordinator.heartbeat(world.now, &crate::world::addr_of(name));
            world.settle();
            return format!("{}\n", if known { "OK" } else { "not found" });
        }
        ["unregister", name] => {
            let done = world.coordinator.unregister(world.now, &crate::world::addr_of(name));
            world.settle();
            return done.map_or_else(|error| format!("{error}\n"), |()| "OK\n".to_owned());
        }
        ["another-comes-as", name] => {
            let addr = crate::world::addr_of(name);
            let joined = world.coordinator.join(world.now, JoinRequest::new(addr));
            let incarnation = match joined {
                Ok(joined) => joined.incarnation,
                Err(JoinError::Refused(error)) => return format!("{error}\n"),
                Err(error) => return format!("{error:?}\n"),
            };
            let heartbeat = NodeMessage::Heartbeat { incarnation };
            let registered = world.coordinator.handle_message(world.now, incarnation, heartbeat);
            world.settle();
            return format!("{}\n", if registered { "registered" } else { "too late" });
        }
        ["decommission", name] => {
            let left = world.coordinator.decommission(world.now, &crate::world::addr_of(name));
            world.settle();
            return left.map_or_else(|error| format!("{error:?}\n"), |slots| format!("{slots} slots\n"));
        }
        ["recommission", name] => {
            let stays = world.coordinator.recommission(world.now, &crate::world::addr_of(name));
            world.settle();
            return stays.map_or_else(|error| format!("{error:?}\n"), |()| "OK\n".to_owned());
        }
        ["replace", old, new] => {
            let [old, new] = [old, new].map(crate::world::addr_of);
            let replaced = world.coordinator.replace(world.now, &old, &new);
            world.settle();
            return format!("{replaced:?}\n");
        }
        ["register-by-hand", name] => {
            let new =
                world.coordinator.register_by_hand(world.now, crate::world::addr_of(name)).expect("there is room");
            world.settle();
            return format!("{}\n", if new { "OK" } else { "already registered" });
        }
        ["put", at, key, value] => {
            return format!("{}\n", world.write(at, key, Change::Put(value.as_bytes()), AckLevel::Async));
        }
        ["put", at, key, value, level] => {
            let level = level.parse().expect("a level");
            return format!("{}\n", world.write(at, key, Change::Put(value.as_bytes()), level));
        }
        ["delete", at, key] => return format!("{}\n", world.write(at, key, Change::Delete, AckLevel::Async)),
        ["delete", at, key, level] => {
            let level = level.parse().expect("a level");
            return format!("{}\n", world.write(at, key, Change::Delete, level));
        }
        ["put-for", at, key, seconds, value] => {
            let change = Change::PutFor(value.as_bytes(), millis(seconds));
            return format!("{}\n", world.write(at, key, change, AckLevel::Quorum));
        }
        ["expire", at, key, seconds] => {
            let change = Change::Expire(millis(seconds));
            return format!("{}\n", world.write(at, key, change, AckLevel::Quorum));
        }
        ["persist", at, key] => return format!("{}\n", world.write(at, key, Change::Persist, AckLevel::Quorum)),
        ["put-if-absent", at, key, value] => {
            return format!("{}\n", world.write_if_absent(at, key, value));
        }
        ["once", seq, at, key, ref what @ ..] => return format!("{}\n", once(world, at, key, seq, what)),
        ["clock", name, ahead] => world.set_clock(name, span_of(ahead)),
        ["put-megabytes", at, key, count] => {
            let value = vec![b'x'; 1 << 20];
            for _ in 0..count.parse::<u32>().expect("a number") {
                assert_eq!(world.write_unsettled(at, key, Change::Put(&value)), Ok(()));
            }
            world.settle();
        }
        ["get", at, key] => return said(world.read(at, key, false)),
        ["get", at, key, "linear"] => return format!("{}\n", world.read_linear(at, key)),
        ["copy", at, key] => return said(world.read(at, key, true)),
        ["list", at, slot, limit, ref how @ ..] => {
            let slot = slot.parse().expect("a number");
            let limit = Some(limit.parse().expect("a number"));
            return format!("{}\n", world.list(at, slot, limit, how.first().unwrap_or(&"linear")));
        }
        ["count", at, slot, ref how @ ..] => {
            let slot = slot.parse().expect("a number");
            return format!("{}\n", world.list(at, slot, None, how.first().unwrap_or(&"linear")));
        }
        ["slot", key] => return format!("{}\n", World::slot_of(key).0),
        ["map"] => return map(world),
        ["route", at, key] => {
            let route = world.member(at).node.route(World::slot_of(key));
            return format!("{:?}\n", route.missing.iter().map(crate::world::name_of).collect::<Vec<_>>());
        }
        ["losses", name] => {
            return world.member(name).node.losses(|losses| {
                losses.iter().fold(String::new(), |text, loss| {
                    let key = String::from_utf8_lossy(loss.record.key()).into_owned();
                    let value = loss.record.value().map_or("deleted".into(), String::from_utf8_lossy);
                    format!("{text}{key} {value}, after {}\n", loss.common)
                })
            });
        }
        ["fills"] => return format!("{} slots were filled\n", world.fills.take()),
        ["lag", name] => return format!("{} messages\n", world.member(name).node.lag().items),
        ["status"] => return world.coordinator.status(world.now).lines().join("\n") + "\n",
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

/// A read-modify-write at `quorum`, under the given sequence number of one client.
fn once(world: &mut World, at: &str, key: &str, seq: &str, what: &[&str]) -> String {
    let number = |word: &str| word.parse().expect("a number");
    let set = |value, condition| {
        let (value, expiry) = (str::as_bytes(value), Expiry::Never);
        Modify::Set { value, condition, expiry, reply_mode: ReplyMode::Old }
    };
    let mut writes = Vec::new();
    let modify = match *what {
        ["set-all-absent", value, ref others @ ..] => {
            for key in [&key].into_iter().chain(others) {
                Writes::push(key.as_bytes(), Effect::Put(value.as_bytes()), &mut writes);
            }
            Modify::SetAllAbsent(Writes::known(&writes))
        }
        ["rename", to] => Modify::Rename { to: to.as_bytes(), if_absent: false },
        ["add", by] => Modify::Increment(number(by)),
        ["append", value] => Modify::Append(value.as_bytes()),
        ["exchange", value] => set(value, Condition::Always),
        ["set-if-absent", value] => set(value, Condition::Absent),
        ["take"] => Modify::GetDel,
        ["delete"] => Modify::Delete,
        _ => panic!("no such modification: {what:?}"),
    };
    let identity = Some(Identity { client: b"me", seq: seq.parse().expect("a number") });
    let write = Write::new(key.as_bytes(), Change::Modify(modify));
    world.carry_out(at, &Write { identity, ack: AckLevel::Quorum, ..write })
}

fn millis(seconds: &str) -> u64 {
    1_000 * seconds.parse::<u64>().expect("a number")
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

/// The map, with names for incarnations and without the numbers that a reader need not follow.
fn map(world: &World) -> String {
    let mut text = String::new();
    for (slot, config) in world.coordinator.known_map().slots() {
        let names = |list: &[proto::id::Incarnation]| match list {
            [] => "-".to_owned(),
            list => list.iter().map(|one| world.name(*one)).collect::<Vec<_>>().join(","),
        };
        let primary = names(config.primary.as_slice());
        let (isr, learners, elr) = (names(&config.isr), names(&config.learners), names(&config.elr));
        let elr = if config.elr.is_empty() { String::new() } else { format!(" elr {elr}") };
        writeln!(text, "slot {} epoch {} primary {primary} isr {isr} learners {learners}{elr}", slot.0, config.epoch)
            .expect("a string takes text");
    }
    text
}

fn span_of(text: &str) -> Duration {
    let (number, unit) = text.split_at(text.len() - 1);
    assert_eq!(unit, "s", "spans are in seconds: {text}");
    Duration::from_secs_f64(number.parse().expect("a number of seconds"))
}
