//! Comparing the copies of slots: the digests that the state machine waits for, and `VERIFY`.

use std::collections::BTreeMap;
use std::time::Duration;

use engine::compare::{NotCompared, ToDigest, Verified};
use engine::node::Turn;
use proto::peer::{Compared, LinkReply};
use proto::response::Response;
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::driver::Driver;
use crate::store::on_a_thread;

/// How often to check whether a round is over.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Computes digests of this node's own copies, in the background.
pub(crate) fn digest_own(driver: &Driver, wanted: Vec<ToDigest>) {
    let driver = driver.clone();
    let background = driver.background().clone();
    background.spawn(async move {
        let mut turn = Turn::default();
        for (ToDigest { query, .. }, digest) in digested(wanted).await {
            driver.node().digested(driver.clock().now(), query, digest, &mut turn);
        }
        driver.finish(&mut turn);
    });
}

/// Computes digests that a primary has asked for, in the background. If too many answers are waiting already, the
/// primary asks again.
pub(crate) fn digest_for(driver: &Driver, wanted: Vec<ToDigest>, answers: &mpsc::Sender<LinkReply>) {
    let answers = answers.clone();
    driver.background().spawn(async move {
        for (ToDigest { slot, query, .. }, digest) in digested(wanted).await {
            let compared = Compared::Digest(digest);
            if answers.try_send(LinkReply::Compared { slot, query, compared }).is_err() {
                return;
            }
        }
    });
}

/// Computes the digests on a thread where they delay nobody.
async fn digested(wanted: Vec<ToDigest>) -> Vec<(ToDigest, u128)> {
    let digest = |it: ToDigest| {
        let digest = it.contents.digest();
        (it, digest)
    };
    on_a_thread(move || wanted.into_iter().map(digest).collect()).await
}

/// Compares all slots that this node leads, and reports the result.
pub(crate) async fn verify(driver: &Driver) -> Response<'static> {
    let round = driver.node().verify(driver.clock().now());
    loop {
        if let Some(verified) = driver.node().verified(round) {
            return Response::Lines(lines(&verified));
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// The text for a round.
fn lines(verified: &Verified) -> Vec<String> {
    let Verified { slots, empty, equal, different, named, under_repair, not_compared } = verified;
    let not: usize = not_compared.values().sum();
    let word = if *different > 0 { "different" } else { "equal" };
    let mut lines = vec![format!(
        "OK Verified {word}: of {slots} slots led here {equal} are equal on all copies in sync, {different} differed, {empty} \
         hold nothing, {not} were not compared"
    )];
    let mut slots_of: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (slot, addr) in named {
        slots_of.entry(addr.as_str()).or_default().push(slot.0.to_string());
    }
    lines.extend(slots_of.into_iter().map(|(addr, slots)| {
        format!("the copies on {addr} differed in slots {}: filled again from this node", slots.join(", "))
    }));
    if *under_repair > 0 {
        lines.push(format!("{under_repair} of the copies that differed are still being filled"));
    }
    lines.extend(not_compared.iter().map(|(why, count)| {
        let why = match why {
            NotCompared::Alone => "no other copy is in sync; STATUS says why",
            NotCompared::NotLed => "another node has taken them over meanwhile",
            NotCompared::NoAnswer => "a copy did not answer in time; check its node",
        };
        format!("{count} slots were not compared: {why}")
    }));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::id::NodeAddr;
    use proto::slot::SlotId;

    #[test]
    fn a_round_is_told_in_words() {
        let mut verified = Verified { slots: 10, empty: 4, equal: 6, ..Verified::default() };
        let equal = "OK Verified equal: of 10 slots led here 6 are equal on all copies in sync, 0 differed, 4 hold nothing, 0 \
                     were not compared";
        assert_eq!(lines(&verified), [equal]);
        let addr = NodeAddr::new("h", 2).unwrap();
        (verified.equal, verified.different) = (3, 2);
        verified.named = vec![(SlotId(7), addr.clone()), (SlotId(9), addr)];
        verified.not_compared.insert(NotCompared::Alone, 1);
        let told = lines(&verified);
        assert!(told[0].starts_with("OK Verified different: "), "{told:?}");
        assert_eq!(told[1], "the copies on h:2 differed in slots 7, 9: filled again from this node");
        assert_eq!(told[2], "1 slots were not compared: no other copy is in sync; STATUS says why");
        verified.under_repair = 1;
        verified.named.push((SlotId(8), NodeAddr::new("h", 3).unwrap()));
        let told = lines(&verified);
        assert_eq!(told.iter().filter(|line| line.contains("still being filled")).count(), 1, "{told:?}");
        assert_eq!(told[3], "1 of the copies that differed are still being filled");
    }
}
