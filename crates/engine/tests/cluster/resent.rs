//! Records that are sent again on a new connection, although their term is over.

use engine::node::{Node, Turn};
use engine::waiting::Waiting;
use proto::level::AckLevel;
use proto::slot::SlotId;

use crate::by_hand::{Link, SLOT, at, empty_map, key, lead, nodes, publish, put};

#[test]
fn a_copy_with_a_record_of_an_earlier_term_acknowledges_none_with_the_same_number() {
    let [a, b, c] = nodes();
    let mut map = empty_map();
    let mut lead = |now, slot: u16, epoch, primary| {
        publish(now, &[&a, &b, &c], &lead(&mut map, SlotId(slot), epoch, primary));
    };
    // A leads the other slot throughout, so its queue to B stays.
    lead(at(0), 1, 1, 1);
    lead(at(0), 0, 2, 1);
    let (mut a_to_b, mut a_to_c) = (Link::new(&a, &b), Link::new(&a, &c));
    [&mut a_to_b, &mut a_to_c].into_iter().for_each(|link| link.exchange(at(1)));
    let (key, waiting) = (key(), Waiting::new());
    let write = |now, value, ack| put(now, &a, value, ack, &waiting).expect("A leads");

    // The first record of the slot reaches B, whose acknowledgement is lost. C, without it, leads for a while: its log
    // is empty, so it writes no barrier, and B cuts the record off.
    assert!(write(at(3), b"old", AckLevel::Async).is_none());
    drop(a_to_b.carry(at(3)));
    lead(at(1_000), 0, 3, 3);
    let (mut c_to_a, mut c_to_b) = (Link::new(&c, &a), Link::new(&c, &b));
    [&mut c_to_a, &mut c_to_b].into_iter().for_each(|link| link.exchange(at(1_001)));
    assert_eq!(b.inspect(SLOT, |slot| slot.last().seq), 0);
    // A leads again. B hears so on the old connection, again without an answer. On a new one everything comes again.
    lead(at(1_200), 0, 5, 1);
    drop(a_to_b.carry(at(1_201)));
    a_to_b.breaks();
    let now = at(1_900);
    [&mut a_to_b, &mut a_to_c].into_iter().for_each(|link| link.exchange(now));
    a.handle_timeout(now, &mut Turn::default());

    let ticket = write(now, b"new", AckLevel::Quorum).expect("it is as this test arranges it");
    [&mut a_to_b, &mut a_to_c].into_iter().for_each(|link| link.exchange(now));
    let value = |node: &Node| {
        let read = node.read_copy(SLOT, &key, || now, |record| record.and_then(|it| it.value().map(<[u8]>::to_vec)));
        read.expect("it is as this test arranges it").expect("it is as this test arranges it")
    };
    assert_eq!((value(&a), value(&b), value(&c)), (b"new".to_vec(), b"old".to_vec(), b"new".to_vec()));
    assert_eq!(waiting.outcome(ticket), None, "B does not have it, and waits to be filled");
}
