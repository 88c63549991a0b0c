// Rule 1: how mirrors and legs enter and leave a pool that serves. One change at a time, never while legs return.
//
//   add      recording (the record names the mirror and its legs) -> building (AddMirror) -> [renaming] -> done
//   attach   recording (named as not in sync, resyncing) -> building (AttachLeg) -> [renaming] -> resyncing -> done
//   replace  ... attach ... -> detaching (the old leg: off the record, failed, detached) -> forgetting -> done
//   resumed  `replace` by a drive that is a leg of the mirror already, as the record says in place of the other one: the resync
//            failed once and its retry succeeded, or the engine refused to detach the old one, or the process died meanwhile;
//            or the old one is kept after all, and the new one leaves. Begins at detaching. The two legs of a nested mirror are
//            no replacement of each other
//   full     `replace` by the leg's own drive (its node, or what was on the drive, was put back or lost): recording (the record
//            calls the leg diverged) -> done; remake takes it up
//   remake   a diverged leg: the same as attach, on the same drive, under a new guid (rule 8)
//
// Joining, the record comes first; leaving, the pool comes first. `renaming`: the engine chose other guids.
#include <fmt/format.h>

#include "brain/owner_internal.h"

namespace zpair::brain::owner {

namespace {

void answer(Turn& turn, bool done, const std::string& text) {
  const std::uint64_t command = turn.state.change->command;
  if (command != 0) turn.order(AnswerCommand{command, done, text});
  turn.state.change->command = 0;
  turn.report(text);
}

record::Mirror* find_mirror(record::Record& record, MirrorId mirror) {
  for (record::Mirror& one : record.mirrors) {
    if (one.guid == mirror) return &one;
  }
  return nullptr;
}

void drop_leg(record::Record& record, LegId leg) {
  for (record::Mirror& mirror : record.mirrors) {
    const auto found =
        std::find_if(mirror.legs.begin(), mirror.legs.end(), [&](const record::Leg& one) { return one.guid == leg; });
    if (found == mirror.legs.end()) continue;
    const record::Leg gone = *found;
    mirror.legs.erase(found);
    for (record::Leg& one : mirror.legs) {
      if (one.node == gone.node && one.replaces == gone.drive) one.replaces.clear();
    }
  }
}

void open_recording(Turn& turn) {
  State& state = turn.state;
  Change& change = *state.change;
  change.phase = Change::Phase::recording;
  if (change.mirror) {
    if (mutated(Mutation::new_mirror_recorded_late)) {
      change.phase = Change::Phase::building;
      return;
    }
    record::Record wanted = next_record(state, "a new mirror");
    wanted.mirrors.push_back(*change.mirror);
    return open_swap(turn, Purpose::change, std::move(wanted));
  }
  record::Record wanted = next_record(state, fmt::format("{} {}@{}", change.same_drive ? "as a new leg:" : "new leg",
                                                         change.leg->drive, name_of(change.leg->node)));
  if (change.same_drive)
    record::find_leg(wanted, change.leg->guid)->full = true;
  else if (change.discard)
    record::find_leg(wanted, *change.discard)->resyncing = true;
  else
    find_mirror(wanted, change.into)->legs.push_back(*change.leg);
  open_swap(turn, Purpose::change, std::move(wanted));
}

void open_renaming(Turn& turn) {
  State& state = turn.state;
  Change& change = *state.change;
  record::Record wanted = next_record(state, "guids as built");
  if (change.mirror) {
    std::erase_if(wanted.mirrors, [&](const record::Mirror& mirror) { return mirror.guid == change.into; });
    wanted.mirrors.push_back(*change.mirror);
  } else {
    for (record::Leg& leg : find_mirror(wanted, change.into)->legs) {
      if (leg.guid != change.discard && leg.drive != change.leg->drive) continue;
      leg = *change.leg;
    }
  }
  open_swap(turn, Purpose::change, std::move(wanted));
}

void open_removal_of(Turn& turn, std::string why) {
  State& state = turn.state;
  Change& change = *state.change;
  record::Record wanted = next_record(state, std::move(why));
  if (change.phase == Change::Phase::forgetting)
    drop_leg(wanted, *change.replaces);
  else if (change.mirror)
    std::erase_if(wanted.mirrors, [&](const record::Mirror& mirror) { return mirror.guid == change.into; });
  else
    drop_leg(wanted, change.leg->guid);
  open_swap(turn, Purpose::change, std::move(wanted));
}

void build(Turn& turn) {
  State& state = turn.state;
  Change& change = *state.change;
  state.order_open = true;
  if (change.mirror) return turn.order(AddMirror{*change.mirror});
  turn.order(AttachLeg{change.into, *change.leg, change.discard});
}

void detach(Turn& turn) {
  State& state = turn.state;
  const LegId leg = *state.change->replaces;
  if (in_sync(state, leg)) return;  // owner_shrink.cpp takes it off first
  LegView& view = view_of(state, leg);
  if (view.fail_ordered || view.order_open) return;
  view.standing = Standing::off;
  state.order_open = true;
  turn.order(DetachLeg{leg});
}

// The leg that shall stay, of a replacement that was begun and did not end: the new one, or the old one when it is taken back.
const record::Leg* resumed_by(const record::Mirror& mirror, const LegOffered& event) {
  if (!event.replaces) return nullptr;
  const record::Leg* stays = nullptr;
  const record::Leg* leaves = nullptr;
  for (const record::Leg& leg : mirror.legs) {
    if (leg.node != event.leg.node) continue;
    if (leg.guid == *event.replaces) leaves = &leg;
    if (leg.drive == event.leg.drive) stays = &leg;
  }
  const bool begun = stays != nullptr && leaves != nullptr && record::replacement_begun(*stays, *leaves);
  return begun ? stays : nullptr;
}

void resume(Turn& turn) {
  State& state = turn.state;
  Change& change = *state.change;
  const bool stays =
      in_sync(state, change.leg->guid) && record::find_leg(state.stored.record, *change.replaces) != nullptr;
  if (!stays) {
    answer(turn, false, fmt::format("{} is not in sync any more: repeat this when it is", change.leg->drive));
    return state.change.reset();
  }
  answer(turn, true,
         fmt::format("{} is in sync, {} leaves", label_of(state, change.leg->guid), label_of(state, *change.replaces)));
  change.phase = Change::Phase::detaching;
}

// The leg that is offered in its own place.
const record::Leg* same_drive(const record::Record& record, const LegOffered& event) {
  const record::Leg* leg = event.replaces ? record::find_leg(record, *event.replaces) : nullptr;
  return leg != nullptr && leg->node == event.leg.node && leg->drive == event.leg.drive ? leg : nullptr;
}

std::string refusal(const State& state, const LegOffered& event) {
  record::Record record = state.stored.record;
  const record::Mirror* mirror = find_mirror(record, event.mirror);
  if (mirror == nullptr) return fmt::format("no mirror {}", event.mirror.value);
  if (event.replaces && record::find_leg(record, *event.replaces) == nullptr)
    return fmt::format("no leg {}", event.replaces->value);
  if (const record::Leg* there = resumed_by(*mirror, event); there != nullptr) {
    if (there->in_sync) return "";
    return fmt::format(
        "{} is attached, but not in sync yet: it is tried again by itself; repeat this when it is in sync",
        there->drive);
  }
  if (const record::Leg* same = same_drive(record, event); same != nullptr) {
    return same->in_sync ? fmt::format("{} is in sync: there is nothing to replace", same->drive) : "";
  }
  for (const record::Mirror& one : record.mirrors) {
    for (const record::Leg& leg : one.legs) {
      if (leg.drive != event.leg.drive) continue;
      if (!event.replaces) return fmt::format("{} is a leg of this pool already", leg.drive);
      return fmt::format("{} is a leg of this pool already, and did not come to replace {}: name a drive that is free",
                         leg.drive, record::find_leg(record, *event.replaces)->drive);
    }
  }
  return "";
}

}  // namespace

void on(Turn& turn, const MirrorOffered& event) {
  State& state = turn.state;
  if (state.change) return turn.order(AnswerCommand{event.command, false, "another change of the pool is on its way"});
  if (event.mirror.legs.empty()) return turn.order(AnswerCommand{event.command, false, "a mirror without legs"});
  state.change = Change{};
  state.change->command = event.command;
  state.change->mirror = event.mirror;
  state.change->into = event.mirror.guid;
  for (record::Leg& leg : state.change->mirror->legs) leg.in_sync = true;  // equal by having nothing
}

void on(Turn& turn, const LegOffered& event) {
  State& state = turn.state;
  if (state.change) return turn.order(AnswerCommand{event.command, false, "another change of the pool is on its way"});
  if (std::string why = refusal(state, event); !why.empty())
    return turn.order(AnswerCommand{event.command, false, why});
  state.change = Change{};
  state.change->command = event.command;
  if (const record::Leg* stays = resumed_by(*find_mirror(state.stored.record, event.mirror), event); stays != nullptr) {
    state.change->leg = *stays;
    state.change->into = event.mirror;
    state.change->replaces = event.replaces;
    state.change->resumed = true;
    return;
  }
  if (const record::Leg* same = same_drive(state.stored.record, event); same != nullptr) {
    state.change->leg = *same;
    state.change->into = event.mirror;
    state.change->same_drive = true;
    return;
  }
  state.change->leg = event.leg;
  state.change->leg->in_sync = false;  // rule 1: a drive that joins enters as not in sync
  state.change->leg->resyncing = true;
  state.change->leg->full = true;
  state.change->leg->since = Txg{};
  state.change->leg->replaces = event.replaces ? record::find_leg(state.stored.record, *event.replaces)->drive : "";
  state.change->into = event.mirror;
  state.change->replaces = event.replaces;
}

void remake_diverged(Turn& turn, LegId leg) {
  State& state = turn.state;
  if (state.change) return;
  state.change = Change{};
  state.change->leg = *record::find_leg(state.stored.record, leg);
  state.change->leg->resyncing = true;
  state.change->leg->since = Txg{};
  state.change->into = view_of(state, leg).mirror;
  state.change->discard = leg;
}

void pursue_change(Turn& turn) {
  State& state = turn.state;
  if (state.phase != Phase::serving) return;
  if (!state.forget_mirrors.empty() && can_swap(state)) {
    record::Record wanted = next_record(state, "mirrors that were never added");
    std::erase_if(wanted.mirrors, [&](const record::Mirror& mirror) {
      return std::find(state.forget_mirrors.begin(), state.forget_mirrors.end(), mirror.guid) !=
             state.forget_mirrors.end();
    });
    return open_swap(turn, Purpose::forget_mirrors, std::move(wanted));
  }
  if (!state.change || state.order_open) return;
  const bool may_swap = can_swap(state);
  switch (state.change->phase) {
    case Change::Phase::waiting:
      if (!may_swap || state.returning || state.ending) return;
      if (state.change->resumed) return resume(turn);
      if (state.change->same_drive && in_sync(state, state.change->leg->guid)) {  // it came back while this waited
        answer(turn, false, fmt::format("{} is in sync: there is nothing to replace", state.change->leg->drive));
        return state.change.reset();
      }
      return open_recording(turn);
    case Change::Phase::building:
      if (state.ack_set_standing == state.ack_set_generation) build(turn);
      return;
    case Change::Phase::renaming:
      if (may_swap) open_renaming(turn);
      return;
    case Change::Phase::detaching: return detach(turn);
    case Change::Phase::forgetting:
      if (may_swap) open_removal_of(turn, "a replaced leg is gone");
      return;
    case Change::Phase::undoing:
      if (may_swap) open_removal_of(turn, "not added: " + state.change->why_failed);
      return;
    case Change::Phase::recording:
    case Change::Phase::resyncing: return;
  }
}

void change_recorded(Turn& turn) {
  State& state = turn.state;
  if (!state.change) return;
  Change& change = *state.change;
  switch (change.phase) {
    case Change::Phase::recording:
      change.phase = Change::Phase::building;
      if (!change.same_drive) return;
      answer(turn, true, fmt::format("{} comes back as a new leg", label_of(state, change.leg->guid)));
      state.change.reset();
      return;
    case Change::Phase::renaming:
      if (change.mirror) {
        answer(turn, true, "the mirror is added");
        state.change.reset();
        return;
      }
      change.phase = Change::Phase::resyncing;
      answer(turn, true, fmt::format("{} is attached, its resync runs", label_of(state, change.leg->guid)));
      return begin_attach(turn, change.leg->guid);
    case Change::Phase::forgetting:
      turn.report("the replaced leg is gone");
      state.change.reset();
      return;
    case Change::Phase::undoing:
      answer(turn, false, change.why_failed);
      state.change.reset();
      return;
    default: return;
  }
}

void on(Turn& turn, const MirrorAdded& event) {
  State& state = turn.state;
  state.order_open = false;
  if (!state.change || !state.change->mirror || state.change->into != event.mirror) return;
  record::Mirror built = event.built;
  for (record::Leg& leg : built.legs) {
    leg.in_sync = true;
    const record::Leg* now = nullptr;  // a leg may have been taken off meanwhile
    for (const record::Mirror& mirror : state.stored.record.mirrors) {
      for (const record::Leg& one : mirror.legs) {
        if (mirror.guid == event.mirror && one.drive == leg.drive) now = &one;
      }
    }
    if (now == nullptr) continue;
    leg.in_sync = now->in_sync;
    leg.since = now->since;
    leg.off_rev = now->off_rev;
  }
  const bool same = find_mirror(state.stored.record, event.mirror) != nullptr &&
                    *find_mirror(state.stored.record, event.mirror) == built;
  state.change->mirror = std::move(built);
  state.change->phase = Change::Phase::renaming;
  if (same) change_recorded(turn);
}

void on(Turn& turn, const MirrorAddFailed& event) {
  State& state = turn.state;
  state.order_open = false;
  if (!state.change || state.change->into != event.mirror) return;
  state.change->phase = Change::Phase::undoing;
  state.change->why_failed = event.why;
}

void on(Turn& turn, const LegAttached& event) {
  State& state = turn.state;
  state.order_open = false;
  if (!state.change || !state.change->leg || state.change->leg->guid != event.leg) return;
  state.change->leg->guid = event.built;
  state.change->phase = Change::Phase::renaming;
  if (event.built == event.leg) change_recorded(turn);
}

void on(Turn& turn, const LegAttachFailed& event) {
  State& state = turn.state;
  state.order_open = false;
  if (!state.change || !state.change->leg || state.change->leg->guid != event.leg) return;
  if (!state.change->discard) {
    state.change->phase = Change::Phase::undoing;
    state.change->why_failed = event.why;
    return;
  }
  LegView& view = view_of(state, *state.change->discard);
  view.standing = Standing::off;
  view.retry_at_ns = turn.now_ns + state.limits.back_off_ns;
  change_failed(turn, event.why);
}

void change_resynced(Turn& turn) {
  State& state = turn.state;
  if (!state.change) return;
  if (!state.change->replaces) return state.change.reset();
  state.change->phase = Change::Phase::detaching;
}

void change_failed(Turn& turn, const std::string& why) {
  State& state = turn.state;
  if (!state.change) return;
  answer(turn, false, fmt::format("the new leg is not in sync, it will be tried again: {}", why));
  state.change.reset();  // the record has it as full and not in sync: remake_diverged() takes it up
}

void on(Turn& turn, const LegDetached& event) {
  State& state = turn.state;
  state.order_open = false;
  if (state.change && state.change->replaces == event.leg) state.change->phase = Change::Phase::forgetting;
}

// What the pool has, the record has: the old leg comes back like any other, until the same command is repeated.
void on(Turn& turn, const LegDetachFailed& event) {
  State& state = turn.state;
  state.order_open = false;
  if (!state.change || state.change->replaces != event.leg) return;
  view_of(state, event.leg).retry_at_ns = turn.now_ns + state.limits.back_off_ns;
  answer(turn, false,
         fmt::format("{} stays in the pool: {}. Repeat the replacement to try again", label_of(state, event.leg),
                     event.why));
  state.change.reset();
}

void mirrors_forgotten(Turn& turn) {
  turn.state.forget_mirrors.clear();
  turn.report("a mirror that was recorded but never added is off the record");
}

}  // namespace zpair::brain::owner
