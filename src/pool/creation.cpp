// How a pool begins. The drives are fenced for a host of their own, OpenZFS makes the pool on them and gives the guids, the
// pool is exported, and only then the record is written, one epoch above that fence. What follows is an import like any
// other. A crash before the record leaves drives with labels and no pool: creating it again with `force` takes them.
#include <algorithm>
#include <utility>

#include "base/log.h"
#include "pool/process.h"

namespace zpair::pool {

namespace {

constexpr std::int64_t open_deadline_ms = 5000;
constexpr std::int64_t fence_deadline_ms = 3000;
constexpr std::int64_t store_deadline_ms = 5000;

// A plan's legs have no guids yet: they get provisional ones, by which Legs knows them.
record::Record with_provisional_guids(record::Record plan, Legs& legs, const std::vector<control::DrivePlace>& places) {
  for (record::Mirror& mirror : plan.mirrors) {
    for (record::Leg& leg : mirror.legs) {
      control::DrivePlace place{leg.node, leg.drive, "", 0, 0};
      for (const control::DrivePlace& known : places) {
        if (known.node == leg.node && known.durable_id == leg.drive) place = known;
      }
      leg.guid = legs.add_new(place);
    }
  }
  return plan;
}

std::vector<LegId> legs_of(const record::Record& record) {
  std::vector<LegId> legs;
  for (const record::Mirror& mirror : record.mirrors) {
    for (const record::Leg& leg : mirror.legs) legs.push_back(leg.guid);
  }
  return legs;
}

Result<record::Record> with_layout(record::Record plan, const zfs::PoolLayout& layout) {
  if (layout.mirrors.size() != plan.mirrors.size()) {
    return fail(ErrorCode::internal, "OpenZFS made {} mirrors, {} were asked for", layout.mirrors.size(),
                plan.mirrors.size());
  }
  plan.pool_guid = layout.guid;
  for (std::size_t m = 0; m < plan.mirrors.size(); ++m) {
    record::Mirror& mirror = plan.mirrors[m];
    const zfs::MirrorLayout& made = layout.mirrors[m];
    if (made.legs.size() != mirror.legs.size())
      return fail(ErrorCode::internal, "OpenZFS made a mirror of another width");
    mirror.guid = made.guid;
    for (std::size_t l = 0; l < mirror.legs.size(); ++l) {
      mirror.legs[l].guid = made.legs[l].guid;
      mirror.legs[l].in_sync = true;
      mirror.legs[l].resyncing = false;
      mirror.legs[l].full = false;
      mirror.legs[l].since = Txg{};
    }
  }
  return plan;
}

block::Task<Result<void>> refuse_foreign_labels(Legs& legs, LegId leg) {
  block::BlockDevice* device = legs.device(leg);
  ZP_CO_TRY(survey, co_await zfs::survey_labels(*device));
  if (survey && survey->pool_state != 2) {
    co_return fail(ErrorCode::refused, "drive {} carries pool {} (guid {}): give --force to destroy what is on it",
                   legs.name(leg), survey->pool_name, survey->pool_guid);
  }
  co_return Result<void>{};
}

}  // namespace

block::Task<Result<void>> wipe_labels(block::BlockDevice& device) {
  constexpr std::uint64_t label_bytes = 256 * 1024;  // two at each end
  const std::uint64_t size_bytes = device.geometry().size_bytes / label_bytes * label_bytes;
  if (size_bytes < 4 * label_bytes)
    co_return fail(ErrorCode::invalid, "a drive of {} bytes is too small", device.geometry().size_bytes);
  const block::Op::Outcome front = co_await block::write_zeroes(device, 0, 2 * label_bytes);
  const block::Op::Outcome back = co_await block::write_zeroes(device, size_bytes - 2 * label_bytes, 2 * label_bytes);
  const block::Op::Outcome flushed = co_await block::flush(device);
  if (!front.ok() || !back.ok() || !flushed.ok())
    co_return fail(ErrorCode::io, "the labels of a drive cannot be wiped");
  co_return Result<void>{};
}

block::Task<Result<record::Stored>> Process::create(const control::StartDocument& document) {
  Legs legs(Legs::Options{.config = options_.config, .host_id = Uuid::random(), .on_path = {}});
  record::Record plan = with_provisional_guids(document.stored.record, legs, document.drives);
  legs.start();

  // Above whatever these drives were fenced at in a former life.
  Epoch highest = plan.epoch;
  Result<zfs::PoolLayout> layout = fail(ErrorCode::internal, "not made");
  Result<Epoch> seen = co_await highest_epoch(legs, legs_of(plan));
  if (!seen) {
    layout = std::unexpected(seen.error());
  } else {
    highest = std::max(highest, *seen).next();
    plan.epoch = highest;
    layout = co_await make_pool(legs, plan, document.force);
  }
  co_await legs.close();
  if (!layout) co_return std::unexpected(layout.error());

  ZP_CO_TRY(record, with_layout(std::move(plan), *layout));
  record.epoch = highest.next();
  record.rev = Revision{1};
  record.owner = options_.config.node;
  record.wanted = record::Wanted::serving;
  record.op = Uuid::random().to_string();
  record.why = fmt::format("created on node {}", options_.config.node);
  auto& host_ids = record.zfs_host_ids;
  const std::uint32_t own = options_.config.zfs_host_id;
  if (std::find(host_ids.begin(), host_ids.end(), own) == host_ids.end()) host_ids.push_back(own);

  const Deadline deadline = Deadline::in_ms(store_deadline_ms);
  auto answer = co_await store_.swap(0, record, deadline);
  if (answer.outcome == quorum::SwapAnswer::Outcome::unknown) {
    const Deadline read_deadline = Deadline::in_ms(store_deadline_ms);
    ZP_CO_TRY(read, co_await store_.read(options_.pool, read_deadline));
    if (!read || read->record.op != record.op) {
      co_return fail(ErrorCode::timed_out, "the store did not confirm the new record");
    }
    co_return *read;
  }
  if (answer.outcome == quorum::SwapAnswer::Outcome::other) {
    co_return fail(ErrorCode::exists, "the store has a pool {} already", options_.pool);
  }
  co_return answer.stored;
}

block::Task<Result<Epoch>> Process::highest_epoch(Legs& legs, std::vector<LegId> of) {
  Epoch highest;
  const Deadline deadline = Deadline::in_ms(open_deadline_ms);
  for (LegId leg : of) {
    auto opened = co_await legs.open(leg, deadline);
    if (!opened) co_return fail(opened.error(), "drive {}", legs.name(leg));
    ZP_CO_TRY(epoch, co_await legs.stored_epoch(leg, deadline));
    highest = std::max(highest, epoch);
  }
  co_return highest;
}

block::Task<Result<zfs::PoolLayout>> Process::make_pool(Legs& legs, const record::Record& plan, bool force) {
  zfs::CreateSpec spec;
  for (const record::Mirror& mirror : plan.mirrors) {
    zfs::MirrorSpec mirror_spec;
    mirror_spec.vdev_class = mirror.vdev_class;
    for (const record::Leg& leg : mirror.legs) {
      if (!force) ZP_CO_CHECK(co_await refuse_foreign_labels(legs, leg.guid));
      const Deadline deadline = Deadline::in_ms(fence_deadline_ms);
      FenceOutcome fenced = co_await legs.fence(leg.guid, plan.epoch, Revision{0}, 0, deadline);
      if (fenced.kind != FenceOutcome::Kind::done) {
        co_return fail(ErrorCode::unreachable, "drive {} cannot be fenced: {}", legs.name(leg.guid), fenced.why);
      }
      ZP_CO_CHECK(co_await wipe_labels(*legs.device(leg.guid)));
      mirror_spec.legs.push_back(legs.spec_of_new(leg.guid));
    }
    spec.mirrors.push_back(std::move(mirror_spec));
  }
  // A leg that errs now is held by the engine for ever: the process ends instead.
  zfs::Pool pool(engine_, {.name = options_.pool, .on_leg_event = [this, &legs](const zfs::LegEvent& event) {
                             if (!event.held) return;
                             finish(control::exit_failed, "failed",
                                    fmt::format("cannot create pool {}: drive {}: {}", options_.pool,
                                                legs.name(legs.leg_of_engine(event.leg)), event.text));
                           }});
  ZP_CO_TRY(layout, co_await pool.create_pool(std::move(spec)));
  ZP_CO_CHECK(co_await pool.export_pool());
  co_return layout;
}

}  // namespace zpair::pool
