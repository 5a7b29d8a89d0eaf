use super::*;

fn incarnations(numbers: &[u64]) -> Vec<Incarnation> {
    numbers.iter().copied().map(Incarnation).collect()
}

fn config(primary: u64, isr: &[u64], learners: &[u64]) -> SlotConfig {
    SlotConfig {
        primary: Some(Incarnation(primary)),
        isr: incarnations(isr),
        learners: incarnations(learners),
        ..SlotConfig::default()
    }
}

fn with_elr(config: SlotConfig, elr: &[u64]) -> SlotConfig {
    SlotConfig { elr: incarnations(elr), ..config }
}

fn view(alive: &[u64], gone: &[u64]) -> ClusterView {
    let mut successors = Successors::default();
    successors.give_up(incarnations(gone));
    ClusterView { alive: incarnations(alive).into_iter().collect(), successors, min_isr: 2, ..ClusterView::default() }
}

#[test]
fn a_node_new_to_the_ring_is_filled_before_it_leads() {
    let view = view(&[1, 2, 3], &[]);
    let target = incarnations(&[3, 1]);
    let first = plan(&config(1, &[1, 2], &[]), &target, &view);
    assert_eq!(first, Plan::Change(config(1, &[1, 2], &[3])), "a learner, led by the holder");
    assert_eq!(plan(&config(1, &[1, 2], &[3]), &target, &view), Plan::Keep);
    let filled = plan(&config(1, &[1, 2, 3], &[]), &target, &view);
    assert_eq!(filled, Plan::Change(config(1, &[3, 1, 2], &[])), "the ring's order");
    let hand_over = plan(&config(1, &[3, 1, 2], &[]), &target, &view);
    assert_eq!(hand_over, Plan::HandOver { from: Incarnation(1), to: Incarnation(3) });
    let leaver = plan(&config(3, &[3, 1, 2], &[]), &target, &view);
    assert_eq!(leaver, Plan::Change(config(3, &[3, 1], &[])), "the leaver goes last");
}

#[test]
fn one_whose_disk_is_full_leads_only_where_no_other_member_can() {
    let mut view = view(&[1, 2, 3], &[]);
    view.avoid_as_primary.insert(Incarnation(1));
    let target = incarnations(&[1, 2, 3]);
    let to_2 = Plan::HandOver { from: Incarnation(1), to: Incarnation(2) };
    assert_eq!(plan(&config(1, &[1, 2, 3], &[]), &target, &view), to_2);
    assert_eq!(plan(&config(2, &[1, 2, 3], &[]), &target, &view), Plan::Keep, "it is not given back");
    view.avoid_as_primary.insert(Incarnation(2));
    let to_3 = Plan::HandOver { from: Incarnation(1), to: Incarnation(3) };
    assert_eq!(plan(&config(1, &[1, 2, 3], &[]), &target, &view), to_3);
    view.avoid_as_primary.insert(Incarnation(3));
    assert_eq!(plan(&config(1, &[1, 2, 3], &[]), &target, &view), Plan::Keep);
    view.avoid_as_primary.clear();
    let back = Plan::HandOver { from: Incarnation(2), to: Incarnation(1) };
    assert_eq!(plan(&config(2, &[1, 2, 3], &[]), &target, &view), back, "it has room again");
}

#[test]
fn a_lost_primary_is_replaced_from_the_in_sync_set_only() {
    let view = view(&[2, 3, 4], &[]);
    let plan = plan(&config(1, &[1, 2, 3], &[4]), &incarnations(&[4, 2, 3]), &view);
    assert_eq!(plan, Plan::Promote(incarnations(&[2, 3])));
    let after = promoted(&config(1, &[1, 2, 3], &[4]), Incarnation(3), &view);
    assert_eq!(after, config(3, &[2, 3], &[4]));
}

#[test]
fn a_suspect_is_replaced_only_where_a_copy_of_the_slot_complains() {
    let mut view = view(&[1, 2, 3, 4], &[]);
    view.suspected = [Incarnation(1)].into();
    view.complaints.insert(Incarnation(1), [Incarnation(3)].into());
    let target = incarnations(&[1, 2]);
    assert_eq!(plan(&config(1, &[1, 2], &[]), &target, &view), Plan::Keep, "3 has no copy");
    let plan_of_3 = plan(&config(1, &[1, 2, 3], &[]), &target, &view);
    assert_eq!(plan_of_3, Plan::Promote(incarnations(&[2, 3])));
    view.suspected = incarnations(&[1, 2]).into_iter().collect();
    let heard = plan(&config(1, &[1, 2, 3], &[]), &target, &view);
    assert_eq!(heard, Plan::Promote(incarnations(&[3])), "one that is heard is better than one that is not");
    let stays = plan(&config(3, &[1, 2, 3], &[]), &incarnations(&[1, 2, 3]), &view);
    assert_eq!(stays, Plan::Keep, "nothing is handed over to a suspect");
    let after = promoted(&config(1, &[1, 2], &[3]), Incarnation(2), &view);
    assert_eq!(after, with_elr(config(2, &[2], &[3]), &[1]), "below two copies the old primary is remembered");
    let only = plan(&config(1, &[1], &[3]), &target, &view);
    assert_eq!(only, Plan::Keep, "an only member is not replaced on suspicion");
}

#[test]
fn a_primary_that_is_heard_is_replaced_where_enough_copies_and_it_do_not_hear_each_other() {
    let mut view = view(&[1, 2, 3, 4], &[]);
    let target = incarnations(&[1, 2, 3]);
    let full = config(1, &[1, 2, 3], &[]);
    view.parted.insert(Incarnation(1));
    view.complaints.insert(Incarnation(1), [2].map(Incarnation).into());
    assert_eq!(plan(&full, &target, &view), Plan::Keep, "it goes on with 3");
    view.complaints.insert(Incarnation(1), [2, 4].map(Incarnation).into());
    assert_eq!(plan(&full, &target, &view), Plan::Keep, "4 has no copy");
    view.complaints.insert(Incarnation(1), [2, 3].map(Incarnation).into());
    assert_eq!(plan(&full, &target, &view), Plan::Promote(incarnations(&[2, 3])));
    let replica = config(2, &[2, 1, 3], &[]);
    assert_eq!(plan(&replica, &incarnations(&[2, 1, 3]), &view), Plan::Keep, "it is only a replica");
    let with_a_learner = config(1, &[1, 2], &[3]);
    assert_eq!(plan(&with_a_learner, &target, &view), Plan::Promote(incarnations(&[2])), "3 can be filled");
    assert_eq!(plan(&config(1, &[1, 4], &[2, 3]), &target, &view), Plan::Keep, "no member is among them");
    let alone = with_elr(config(1, &[1], &[]), &[2, 3]);
    assert_eq!(plan(&alone, &target, &view), Plan::Keep, "it may serve without a word from former members");
    view.avoid_as_primary = incarnations(&[3]).into_iter().collect();
    assert_eq!(plan(&full, &target, &view), Plan::Keep, "3 is about to stop, and 2 alone is not enough");
}

#[test]
fn nothing_changes_while_members_are_expected_back() {
    let mut view = view(&[2], &[]);
    view.expected = incarnations(&[1]).into_iter().collect();
    let target = incarnations(&[2]);
    assert_eq!(plan(&config(1, &[1, 2], &[]), &target, &view), Plan::Keep);
    assert_eq!(plan(&config(3, &[3, 2], &[1]), &target, &view), Plan::Promote(incarnations(&[2])), "1 is no member");
}

#[test]
fn where_no_member_is_left_a_former_one_leads_that_has_all_that_was_promised() {
    let small = with_elr(config(1, &[1], &[]), &[2]);
    let target = incarnations(&[2, 3]);
    assert_eq!(plan(&small, &target, &view(&[2, 3], &[])), Plan::Promote(incarnations(&[2])));
    let after = promoted(&small, Incarnation(2), &view(&[2, 3], &[]));
    assert_eq!(after, with_elr(config(2, &[2], &[]), &[1]), "who comes back later has it, too");
    let waits = plan(&small, &target, &view(&[3], &[2]));
    assert_eq!(waits, Plan::Change(config(1, &[1], &[])), "2 has come back with nothing; 1 may still come");
    let anew = plan(&small, &incarnations(&[3]), &view(&[3], &[1, 2]));
    assert_eq!(anew, Plan::StartAnew(config(3, &[3], &[])));
}

#[test]
fn those_who_come_back_with_their_disks_may_lead_after_a_while() {
    let mut view = view(&[11, 12, 3], &[]);
    view.successors.is_reborn_as(Incarnation(1), Incarnation(11));
    view.patient = true;
    let slot = config(1, &[1, 2], &[]);
    let target = incarnations(&[11, 12]);
    assert_eq!(plan(&slot, &target, &view), Plan::Keep, "2 may be about to come");
    view.patient = false;
    assert_eq!(plan(&slot, &target, &view), Plan::Promote(incarnations(&[11])));
    view.successors.is_reborn_as(Incarnation(2), Incarnation(12));
    view.patient = true;
    assert_eq!(plan(&slot, &target, &view), Plan::Promote(incarnations(&[11, 12])));
    assert_eq!(promoted(&slot, Incarnation(12), &view), with_elr(config(12, &[12], &[]), &[11]));
    view.alive.remove(&Incarnation(11));
    let named = promoted(&slot, Incarnation(12), &view).elr;
    assert_eq!(
        named,
        incarnations(&[1]),
        "a successor that is gone again is not named: nobody would know its next start"
    );
    view.alive.insert(Incarnation(11));
    // If one was up throughout, the other starts as a learner.
    view.alive.insert(Incarnation(2));
    let learner = plan(&config(2, &[1, 2, 3], &[]), &incarnations(&[2, 11]), &view);
    assert_eq!(learner, Plan::Change(config(2, &[2, 3], &[11])));
}

#[test]
fn copies_without_proof_lead_where_none_has_one_and_all_that_were_not_lost_are_back() {
    let mut view = view(&[11, 4], &[]);
    view.successors.is_unproven_as(Incarnation(1), Incarnation(11));
    view.successors.is_unproven_as(Incarnation(2), Incarnation(12));
    let slot = config(1, &[1, 2], &[]);
    let (target, both) = (incarnations(&[11, 12]), incarnations(&[11, 12]));
    assert_eq!(plan(&slot, &target, &view), Plan::Keep, "2 came back, and is away again");
    view.alive.insert(Incarnation(12));
    assert_eq!(plan(&slot, &target, &view), Plan::PromoteUnproven(both.clone()));
    let after = promoted(&slot, Incarnation(12), &view);
    assert_eq!(after, with_elr(config(12, &[12], &[]), &[1]), "what 1 has is not forgotten, nor taken for whole");
    let former = with_elr(slot.clone(), &[3]);
    assert_eq!(plan(&former, &target, &view), Plan::Keep, "3 may come back");
    view.successors.is_reborn_as(Incarnation(3), Incarnation(4));
    assert_eq!(plan(&former, &target, &view), Plan::Promote(incarnations(&[4])), "it is known to be whole");
    view.successors.give_up([Incarnation(3)]);
    assert_eq!(plan(&former, &target, &view), Plan::PromoteUnproven(both), "it has nothing");
    view.successors.give_up(incarnations(&[1, 2]));
    assert_eq!(plan(&former, &target, &view), Plan::StartAnew(config(11, &[11], &[12])));
    view.with_data.insert(Incarnation(12));
    let named = SlotConfig { learners: incarnations(&[12]), ..SlotConfig::default() };
    assert_eq!(plan(&former, &target, &view), Plan::Change(named.clone()), "it has come back with something");
    view.with_data.clear();
    let older = Plan::PromoteOlder(incarnations(&[12]), config(11, &[11], &[12]));
    assert_eq!(plan(&named, &target, &view), older, "and is asked what that is");
}

#[test]
fn one_without_proof_is_left_out_only_by_one_that_was_heard_since() {
    let mut view = view(&[11, 2, 3], &[]);
    view.successors.is_unproven_as(Incarnation(1), Incarnation(11));
    let target = incarnations(&[11, 2, 3]);
    for primary in [1, 2] {
        let slot = config(primary, &[1, 2, 3], &[]);
        view.unheard = incarnations(&[2, 3, 11]).into_iter().collect();
        assert_eq!(plan(&slot, &target, &view), Plan::Keep, "they may have lost their power, too");
        view.suspected = incarnations(&[2, 3]).into_iter().collect();
        assert_eq!(plan(&slot, &target, &view), Plan::Keep, "it seems that they have");
        (view.suspected, view.unheard) = Default::default();
    }
    assert_eq!(plan(&config(1, &[1, 2, 3], &[]), &target, &view), Plan::Promote(incarnations(&[2, 3])));
    let led = plan(&config(2, &[1, 2, 3], &[]), &target, &view);
    assert_eq!(led, Plan::Change(config(2, &[2, 3], &[11])));
    let alone = plan(&config(2, &[1, 2], &[]), &target, &view);
    assert_eq!(alone, Plan::Change(with_elr(config(2, &[2], &[11, 3]), &[1])), "its data is not forgotten");
}

#[test]
fn the_last_holder_is_waited_for_until_it_is_known_to_be_gone() {
    let lost = config(1, &[1], &[]);
    assert_eq!(plan(&lost, &incarnations(&[2, 3]), &view(&[2, 3], &[])), Plan::Keep);
    let anew = plan(&lost, &incarnations(&[2, 3]), &view(&[2, 3], &[1]));
    assert_eq!(anew, Plan::StartAnew(config(2, &[2], &[3])));
}

#[test]
fn an_older_copy_stays_while_a_member_is_waited_for_and_leads_when_none_will_come() {
    let learns = config(1, &[1], &[3]);
    let target = incarnations(&[3, 4]);
    assert_eq!(plan(&learns, &target, &view(&[3, 4], &[])), Plan::Keep, "1 may come back, and 3 keeps what it has");
    assert_eq!(plan(&learns, &target, &view(&[4], &[])), Plan::Keep, "3 is away, and may be back in a moment");
    let mut back = view(&[4, 13], &[]);
    back.successors.is_reborn_as(Incarnation(3), Incarnation(13));
    let kept = Plan::Change(config(1, &[1], &[13]));
    assert_eq!(plan(&learns, &incarnations(&[13, 4]), &back), kept, "3 was started again, with its data");
    back.successors.is_unproven_as(Incarnation(3), Incarnation(13));
    assert_eq!(plan(&learns, &incarnations(&[13, 4]), &back), kept, "or with what a power failure left of it");
    let lost = view(&[3, 4], &[1]);
    let named = SlotConfig { learners: incarnations(&[3]), ..SlotConfig::default() };
    assert_eq!(plan(&learns, &target, &lost), Plan::Change(named.clone()), "1 is gone");
    let anew = config(3, &[3], &[4]);
    assert_eq!(plan(&named, &target, &lost), Plan::PromoteOlder(incarnations(&[3]), anew));
    let alone = plan(&named, &incarnations(&[4]), &view(&[4], &[1]));
    assert_eq!(alone, Plan::StartAnew(config(4, &[4], &[])), "nobody is here who has anything");
    let after = promoted(&learns, Incarnation(3), &view(&[3, 4], &[1]));
    assert_eq!(after, config(3, &[3], &[]));
}

#[test]
fn nodes_registered_by_hand_give_way_to_real_ones_and_follow_the_ring_alone() {
    let mut view = view(&[1, 2], &[]);
    view.by_hand = incarnations(&[1, 2]).into_iter().collect();
    let target = incarnations(&[2, 1]);
    assert_eq!(plan(&SlotConfig::default(), &target, &view), Plan::StartAnew(config(2, &[2, 1], &[])));
    assert_eq!(plan(&config(1, &[1], &[]), &target, &view), Plan::Change(config(2, &[2, 1], &[])));

    view.alive.insert(Incarnation(3));
    let real = plan(&config(2, &[2, 1], &[]), &incarnations(&[3]), &view);
    assert_eq!(real, Plan::StartAnew(config(3, &[3], &[])));
}
