# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""From what serves a model and what is wanted of it to the steps of a change: pure functions, no step is taken here.

Nothing is remembered between two runs. A plan is made from what is there, so that a run that was interrupted is gone
on with by planning again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ansible_collections.llm_d.multi_engine.plugins.module_utils.marks import ADOPTED_SIDE

from . import canary, tracks
from .findings import listing
from .objects import workload_kind, workloads_of

AUTO, SURGE, IN_PLACE, CANARY, RECREATE = STRATEGIES = ("auto", "surge", "in_place", "canary", "recreate")
#: What is wanted serves already, and what it has replaced is still there.
FINISH = "finish"
#: Who gets requests, in the order in which a change goes.
OLD, BOTH, NEW = SERVE = ("old", "both", "new")


@dataclass(frozen=True)
class Step:
    """One step of a change. All of it may have been done already: then it costs nothing.

    :ivar words: what it does, for people.
    :ivar serve: who gets requests at its end; before anything else of the step where it is the old one.
    :ivar new: replicas of the new one, None where it is left as it is.
    :ivar old: replicas of the old one, None where it is left as it is; 0 removes it.
    :ivar attempt: whether each pod of the new one has to give a completion first.
    :ivar hold: seconds for which the new one has to stay well afterwards.
    :ivar judge: whether it has to do as well as the old one meanwhile.
    :ivar leftovers: whether what is neither old nor new goes.
    :ivar rest: whether what is left of something that was taken over goes, besides its workloads.
    :ivar testers: whether the requests of testers reach the new one alone.
    """

    words: str
    serve: str = OLD
    new: int | None = None
    old: int | None = None
    attempt: bool = False
    hold: int = 0
    judge: bool = False
    leftovers: bool = False
    rest: bool = False
    testers: bool = False


@dataclass(frozen=True)
class Change:
    """What a model is changed from, and to.

    :ivar model: its name.
    :ivar old: who serves: ``engine``, ``track``, ``pool``, ``port``, and ``label`` for people; None where nobody does but
        the new one.
    :ivar new: the same of what is wanted, and ``revision``.
    :ivar serve: who gets requests now, of :data:`SERVE`.
    :ivar old_replicas: how often the old one is there.
    :ivar old_asked: how often it was before anything of the change was done.
    :ivar old_ready: how many replicas of it answer.
    :ivar new_replicas: how often the new one is there, as it is wanted; 0 where what is there is something else.
    :ivar replicas: how often the new one is wanted.
    :ivar autoscaled: whether somebody else writes the replicas of both.
    :ivar leftovers: workloads that are neither, each with ``kind``, ``name``, ``engine`` and ``track``.
    :ivar apart: why both cannot be behind one pool; nothing where they can.
    :ivar settings: the model's ``rollout``.
    :ivar adopted: names of ``pools`` and ``routes`` that were taken over for the model, and are there still.
    :ivar testers: headers by which requests of testers reach the new one; nothing where nobody tests.
    """

    model: str
    old: Mapping[str, Any] | None
    new: Mapping[str, Any]
    serve: str
    old_replicas: int
    old_asked: int
    old_ready: int
    new_replicas: int
    replicas: int
    leftovers: Sequence[Mapping[str, str]]
    apart: Sequence[str]
    settings: Mapping[str, Any]
    autoscaled: bool = False
    adopted: Mapping[str, Sequence[str]] | None = None
    testers: str = ""


@dataclass(frozen=True)
class Room:
    """What the cluster has for the new one beside everything else.

    :ivar fits: how many of its replicas find room, None where it is not to be seen.
    :ivar missing: how many there are to be.
    :ivar needed: accelerators that they need, resource to count.
    :ivar free: accelerators that nobody uses, where they could be.
    """

    fits: int | None
    missing: int
    needed: Mapping[str, int]
    free: Mapping[str, int]


@dataclass(frozen=True)
class Plan:
    """How a model is changed.

    :ivar strategy: of :data:`STRATEGIES`, decided.
    :ivar steps: those that are left to do.
    :ivar back: those that lead back to the old one, empty where there is no way back.
    :ivar refusals: why it is not done, with the ways out; then there are no steps.
    :ivar words: the whole of it, for people.
    """

    strategy: str
    steps: Sequence[Step]
    back: Sequence[Step]
    refusals: Sequence[str]
    words: Sequence[str]


def is_needed(model: Mapping[str, Any], serving: Mapping[str, Any] | None, revision: str, prune: bool = True) -> bool:
    """Whether ``model`` has to change under traffic, rather than only be applied.

    :param model: resolved.
    :param serving: what serves it, see :mod:`serving` of module_utils; None when it has no route yet.
    :param revision: digest of what its pods are to run.
    :param prune: whether what serves no more is to go.
    """
    if not serving or not (serving["workloads"] or serving.get("adopted")):
        return False
    if not _is_pinned(serving) or serving["track"] == ADOPTED_SIDE:
        return True
    live = _group(serving, serving["engine"], serving["track"])
    if not _answers(live):
        # Nothing to be careful of.
        return False
    if prune and (len(_groups(serving)) > 1 or serving.get("adopted")):
        # Also what serves no more has to finish its requests before it goes.
        return True
    if serving["engine"] != model["engine"] or _names(model, serving["track"], serving["pool"]) != _names_of(live):
        return True
    return _runs_another(live, revision)


def stuck(model: Mapping[str, Any], serving: Mapping[str, Any] | None, revision: str = "") -> str | None:
    """Return why applying ``model`` alone would take away, replace or miss what serves it; None when it would not.

    :param serving: what serves it.
    :param revision: digest of what its pods are to run, where that is to be applied.
    """
    if not serving or not (serving["workloads"] or serving.get("adopted")):
        return None
    name = model["name"]
    remedy = "Run the playbook models without --tags, or role rollout before."
    if not _is_pinned(serving):
        return f"model {name} is in the middle of a change: two workloads serve it. {remedy}"
    if serving["track"] == ADOPTED_SIDE:
        return f"model {name} is served by what was taken over, behind InferencePool {serving['pool']}. {remedy}"
    live = _group(serving, serving["engine"], serving["track"])
    if not _answers(live):
        return None
    there = listing(sorted(item for _kind, item in _names_of(live)))
    if _names(model, serving["track"], serving["pool"]) != _names_of(live):
        return f"model {name} is served by {there}, and the inventory asks for another engine or topology. {remedy}"
    if revision and _runs_another(live, revision):
        return f"model {name} is served by {there}, and the inventory asks for other pods in its place. {remedy}"
    return None


def change(
    model: Mapping[str, Any], serving: Mapping[str, Any], revision: str, picker: Mapping[str, Any]
) -> tuple[Change, dict[str, str]]:
    """Return what ``model`` is changed from and to, and where the new one goes (``engine``, ``track`` and ``pool``).

    :param revision: digest of what its pods are to run.
    :param picker: ``port``, ``protocol`` and ``config_hash`` of its pool and picker as they are wanted.
    """
    groups = _groups(serving)
    pinned = (serving["engine"], serving["track"]) if _is_pinned(serving) else None
    wanted = [key for key, group in groups.items() if key[0] == model["engine"] and _is(group, revision)]
    served = pinned in wanted
    new_key = pinned if served else max(wanted, key=lambda key: _created(groups[key]), default=None)
    others = [key for key in groups if key != new_key]
    # While two serve and neither is wanted any more, the older one is known to work.
    old_key = pinned or min(others, key=lambda key: _created(groups[key]), default=None)
    if served:
        old_key = None
    if new_key is None:
        same = old_key is not None and old_key[0] == model["engine"]
        new_key = model["engine"], tracks.other(old_key[1]) if same and old_key else tracks.STABLE
    old = groups.get(old_key, []) if old_key else []
    new = groups.get(new_key, []) if _is(groups.get(new_key, []), revision) else []
    apart = _apart(model, serving, old, picker)
    leftovers = [
        {name: workload[name] for name in ("kind", "name", "engine", "track")}
        for key, group in groups.items()
        if key not in (old_key, new_key)
        for workload in group
    ]
    adopted = serving["track"] == ADOPTED_SIDE
    # What was taken over keeps its pool, whatever becomes of it.
    moves = adopted or (apart and old_key and model["rollout"]["strategy"] != RECREATE)
    pool = tracks.other_pool(model["name"], serving["pool"]) if moves else serving["pool"]
    target = {"engine": new_key[0], "track": new_key[1], "pool": pool}
    result = Change(
        model=model["name"],
        old=_side(serving, old_key, old) if old_key else None,
        new={**target, "label": f"{model['engine']} {model['engine_version']}", "revision": revision},
        serve=NEW if served else BOTH if not pinned and new else OLD,
        old_replicas=min((workload["replicas"] for workload in old), default=0),
        old_asked=min((workload["asked"] for workload in old), default=0),
        old_ready=min((workload["ready"] for workload in old), default=0),
        new_replicas=min((workload["replicas"] for workload in new), default=0),
        # As many as its autoscaler has made of the old one: it takes all its requests at once.
        replicas=max([model["replicas"], *(workload["replicas"] for workload in old if model["autoscaling"])]),
        autoscaled=bool(model["autoscaling"]),
        leftovers=leftovers,
        apart=apart,
        settings=model["rollout"],
        adopted=serving.get("adopted"),
    )
    return result, target


def _apart(model: Mapping, serving: Mapping, old: Sequence[Mapping], picker: Mapping) -> list[str]:
    """Return why old and new cannot be behind one pool."""
    reasons = []
    if serving["track"] == ADOPTED_SIDE:
        # Nothing else is known of it that would matter.
        return ["what serves was taken over, and its pods lack the labels by which ours are told apart"]
    if model["roles"] or len(old) > 1:
        reasons.append("a prefill pod of one must never meet a decode pod of the other")
    if model.get("renderer"):
        reasons.append("the picker follows what is in the caches of one engine")
    if picker["config_hash"] != serving["config_hash"]:
        reasons.append("the picker needs another configuration")
    if (picker["port"], picker["protocol"]) != (serving["port"], serving["protocol"]):
        reasons.append("the pods are reached by another port or protocol")
    return reasons


def plan(wanted: Change, room: Room) -> Plan:
    """Return how to make the change ``wanted``, from where it is."""
    strategy, refusals = _strategy(wanted, room)
    head = f"Model {wanted.model}: {_label(wanted.old)} -> {wanted.new['label']}, strategy {strategy}"
    if refusals:
        return Plan(strategy, (), (), refusals, [f"{head}: refused."])
    steps = _left(wanted, _STEPS[strategy](wanted, room))
    if wanted.leftovers:
        names = listing(item["name"] for item in wanted.leftovers)
        words = f"remove what is left of another change when its requests are finished: {names}"
        steps = [Step(words, wanted.serve, leftovers=True), *steps]
    if wanted.adopted:
        steps = [
            *steps,
            Step("remove what came with the one that was taken over: routes, pool, picker", NEW, rest=True),
        ]
    back = _back(wanted, strategy) if strategy in (SURGE, IN_PLACE, CANARY) else []
    head += f". {_told(room)}" if strategy != FINISH else "."
    if wanted.apart and strategy == SURGE:
        head += f" It gets a pool of its own: {'; '.join(wanted.apart)}."
    words = [head, *(f"{number}. {step.words}" for number, step in enumerate(steps, 1))]
    return Plan(strategy, steps, back, (), words)


def _strategy(wanted: Change, room: Room) -> tuple[str, list[str]]:
    """Return the strategy, and why it cannot be."""
    asked = wanted.settings["strategy"]
    fits = room.fits is None or room.fits >= room.missing
    spare = wanted.old_asked - min_ready(wanted)
    if wanted.serve == NEW:
        return FINISH, []
    if wanted.adopted and len(wanted.adopted["pools"]) > 1:
        pools = listing(wanted.adopted["pools"])
        why = f"Model {wanted.model}: {len(wanted.adopted['pools'])} InferencePools were taken over for it: {pools}."
        return asked, [f"{why} Only one can be led to another pool and back. Take the others over for other models."]
    # Nothing keeps what was taken over: it goes first only when somebody says so.
    is_kept = wanted.old is None or wanted.old["track"] != ADOPTED_SIDE
    if wanted.old is None or (asked == AUTO and not wanted.old_ready and not fits and is_kept):
        # Nothing answers: nobody is interrupted.
        return RECREATE, []
    if wanted.apart and asked in (IN_PLACE, CANARY):
        how = "in_place" if asked == IN_PLACE else "by a canary, for both cannot be behind one pool"
        why = f"Model {wanted.model} cannot change {how}: {'; '.join(wanted.apart)}."
        return asked, [f"{why} Use surge, or recreate, which interrupts the model."]
    if wanted.autoscaled and asked == IN_PLACE:
        why = f"Model {wanted.model} cannot change in_place: its autoscaler would give back what is taken away."
        return IN_PLACE, [f"{why} Use surge, or recreate, which interrupts the model."]
    if asked == AUTO:
        if fits:
            return SURGE, []
        if spare >= 1 and not wanted.apart and not wanted.autoscaled:
            return IN_PLACE, []
        return SURGE, [_no_room(wanted, room, spare)]
    if asked == SURGE and not fits:
        return SURGE, [_no_room(wanted, room, spare)]
    if asked == CANARY and not fits and (wanted.autoscaled or spare + (room.fits or 0) < 1):
        return CANARY, [_no_room(wanted, room, spare)]
    if asked == IN_PLACE and spare < 1:
        problem = f"in_place takes away {wanted.old_asked} - {min_ready(wanted)} = {spare} replicas at a time"
        return IN_PLACE, [
            f"Model {wanted.model}: {problem} (replicas - rollout.min_ready). Lower min_ready, or {_SURGE_OR}."
        ]
    return asked, []


_SURGE_OR = "use surge or recreate, which interrupts the model"


def min_ready(wanted: Change) -> int:
    """Return how many replicas have to answer at any time: all but one unless the model says otherwise."""
    given = wanted.settings.get("min_ready")
    return max(1, wanted.old_asked - 1) if given is None else given


def _no_room(wanted: Change, room: Room, spare: int) -> str:
    needed = listing(f"{count} {name}" for name, count in room.needed.items()) or "room for its pods"
    free = listing(f"{count} {name}" for name, count in room.free.items())
    there = f"; free where it could be: {free}" if free else ""
    ways = ["free that room"]
    if spare >= 1 and not wanted.apart:
        ways.append(f"use rollout.strategy: in_place, {spare} replicas at a time")
    elif not wanted.apart:
        ways.append(f"set rollout.min_ready below {wanted.old_asked} for in_place")
    ways.append("use rollout.strategy: recreate, which interrupts the model")
    return (
        f"Model {wanted.model}: old and new beside each other need {needed} more, and only {room.fits} of "
        f"{room.missing} replicas find room{there}. Ways out: {'; '.join(ways)}."
    )


def _told(room: Room) -> str:
    """Say what a change takes."""
    if not room.needed:
        return "The new one takes no accelerators."
    needed = listing(f"{count} {name}" for name, count in room.needed.items())
    free = listing(f"{room.free.get(name, 0)} {name}" for name in room.needed)
    return f"The new one takes {needed}; free: {free if room.fits is not None else 'not to be seen'}."


def _trial(wanted: Change) -> str:
    """Say how the new one is tried, where that takes more than a request."""
    times = wanted.settings.get("trial_requests", 1)
    return f" with {times} requests at once" if times > 1 else ""


def _surge(wanted: Change, _room: Room) -> list[Step]:
    count, hold = wanted.replicas, wanted.settings["hold_seconds"]
    if wanted.apart:
        start = f"start {_label(wanted.new)} and a picker beside it, behind pool {wanted.new['pool']}, and try them{_trial(wanted)}"
        return [
            Step(start, OLD, new=count, attempt=True),
            Step(f"lead {_routes(wanted)} there, for {hold} s", NEW, new=count, hold=hold),
            _gone(wanted, NEW),
        ]
    return [
        Step(
            f"start {count} x {_label(wanted.new)} beside it, and try each pod{_trial(wanted)}",
            OLD,
            new=count,
            attempt=True,
        ),
        Step(f"let both serve, for {hold} s", BOTH, new=count, hold=hold),
        Step(f"let only the new one serve, for {hold} s", NEW, new=count, hold=hold),
        _gone(wanted, NEW),
    ]


def _in_place(wanted: Change, _room: Room) -> list[Step]:
    """Return batches: as many go as :func:`min_ready` allows, and as many new ones come in their place."""
    count, hold, least, had = wanted.replicas, wanted.settings["hold_seconds"], min_ready(wanted), wanted.old_asked
    steps, new = [], 0
    while (old := max(0, least - new)) > 0:
        new = min(count, had - old)
        words = f"keep {old} x {_label(wanted.old)}, start {new} x {_label(wanted.new)}"
        if not steps:
            steps.append(Step(f"{words}, and try each pod{_trial(wanted)}", OLD, new=new, old=old, attempt=True))
            steps.append(Step(f"let both serve, for {hold} s", BOTH, new=new, hold=hold))
        else:
            steps.append(Step(words, BOTH, new=new, old=old))
        if new >= count:
            break
    return [
        *steps,
        Step(f"let only the new one serve, for {hold} s", NEW, new=new, hold=hold),
        _gone(wanted, NEW),
        Step(f"start the rest: {count} x {_label(wanted.new)}", NEW, new=count),
    ]


def _canary(wanted: Change, room: Room) -> list[Step]:
    """Return steps in which the new one gets more and more requests, as its replicas do, and is judged in each."""
    count, had, hold = wanted.replicas, wanted.old_asked, wanted.settings["hold_seconds"]
    # What the new one has taken already counts as free, and so does what the old one has given.
    taken = wanted.old_asked - wanted.old_replicas
    beside = None if room.fits is None or room.fits >= room.missing else max(0, room.fits - taken)
    steps: list[Step] = []
    tested = bool(wanted.testers)
    new = count
    for new, left in canary.shares(wanted.settings.get("steps", ()), count, had, min_ready(wanted), beside):
        old = left if left < had else None
        there = f"{new} x {_label(wanted.new)} beside {left} x {_label(wanted.old)}"
        if not steps:
            start = f"start {there}, and try each pod{_trial(wanted)}"
            if tested:
                start += f"; then requests with {wanted.testers} go to it alone"
            steps.append(Step(start, OLD, new=new, old=old, attempt=True, testers=tested))
            alone = wanted.settings["testers"]["hold_seconds"] if tested else 0
            if alone:
                steps.append(Step(f"let testers alone use it, for {alone} s", OLD, new=new, hold=alone, testers=True))
        both = f"let both serve, {there}; judge after {hold} s"
        steps.append(Step(both, BOTH, new=new, old=old, hold=hold, judge=True, testers=tested))
    return [
        *steps,
        Step(f"let only the new one serve; judge after {hold} s", NEW, new=new, hold=hold, judge=True),
        _gone(wanted, NEW),
        *([Step(f"start the rest: {count} x {_label(wanted.new)}", NEW, new=count)] if new < count else []),
    ]


def _recreate(wanted: Change, _room: Room) -> list[Step]:
    count = wanted.replicas
    start = Step(f"start {count} x {_label(wanted.new)}, and let it serve", NEW, new=count)
    return [_gone(wanted, OLD), start] if wanted.old else [start]


def _finish(_wanted: Change, _room: Room) -> list[Step]:
    return []


_STEPS = {SURGE: _surge, IN_PLACE: _in_place, CANARY: _canary, RECREATE: _recreate, FINISH: _finish}


def _routes(wanted: Change) -> str:
    routes = (wanted.adopted or {}).get("routes")
    return f"HTTPRoute {listing(routes)}" if routes else "the route"


def _gone(wanted: Change, serve: str) -> Step:
    return Step(f"remove {_label(wanted.old)} when its requests are finished", serve, old=0)


def _back(wanted: Change, strategy: str) -> list[Step]:
    """Return the way back: the old one as it was and alone, then the new one goes."""
    less = strategy in (IN_PLACE, CANARY) or wanted.old_replicas != wanted.old_asked
    return [
        Step(f"let only {_label(wanted.old)} serve", OLD, old=wanted.old_asked if less else None),
        Step(f"remove {_label(wanted.new)}", OLD, new=0),
    ]


def _left(wanted: Change, steps: Sequence[Step]) -> list[Step]:
    """Return what is left of ``steps``: nothing goes backwards."""
    rank, result = SERVE.index(wanted.serve), []
    for step in steps:
        if SERVE.index(step.serve) < rank:
            continue
        if step.judge and step.serve == wanted.serve == BOTH and (step.new or 0) < wanted.new_replicas:
            continue
        if step.old and wanted.new_replicas and step.old > wanted.old_replicas:
            continue
        if step.new is not None:
            step = replace(step, new=max(step.new, min(wanted.new_replicas, wanted.replicas)))
        result.append(step)
    return result


def _label(side: Mapping[str, Any] | None) -> str:
    return side["label"] if side else "nothing"


def _side(serving: Mapping, key: tuple[str, str], workloads: Sequence[Mapping]) -> dict[str, Any]:
    engine, track = key
    images = listing(dict.fromkeys(workload["image"] for workload in workloads)) or "no pods"
    place = {"pool": serving["pool"], "port": serving["port"]}
    return {"engine": engine, "track": track, **place, "label": f"{engine} ({images})"}


def _is_pinned(serving: Mapping) -> bool:
    return bool(serving["engine"] and serving["track"])


def _groups(serving: Mapping) -> dict[tuple[str, str], list[Mapping]]:
    """Return the workloads of a model by engine and track."""
    groups: dict[tuple[str, str], list[Mapping]] = {}
    for workload in serving["workloads"]:
        groups.setdefault((workload["engine"], workload["track"]), []).append(workload)
    return groups


def _group(serving: Mapping, engine: str, track: str) -> list[Mapping]:
    return _groups(serving).get((engine, track), [])


def _is(group: Sequence[Mapping], revision: str) -> bool:
    return bool(group) and all(workload["revision"] == revision for workload in group)


def _runs_another(group: Sequence[Mapping], revision: str) -> bool:
    """Whether it is known that ``group`` runs another revision."""
    return all(workload["revision"] for workload in group) and not _is(group, revision)


def _answers(group: Sequence[Mapping]) -> bool:
    return bool(group) and all(workload["ready"] for workload in group)


def _created(group: Sequence[Mapping]) -> str:
    return min(workload["created"] for workload in group)


def _names_of(workloads: Sequence[Mapping]) -> set[tuple[str, str]]:
    return {(workload["kind"], workload["name"]) for workload in workloads}


def _names(model: Mapping, track: str, pool: str) -> set[tuple[str, str]]:
    placed = tracks.placed(model, track, pool)
    return {(workload_kind(pods), pods["workload"]) for pods in workloads_of(placed)}
