"""The worker: one loop over jobs' ends, the clock, and the call to the master."""

import os
import selectors
import signal
import time

import artifacts
import control
import outputs
from engine import Engine
from faultpoints import reach
from logtail import LogTail
from machine import say
from processes import CONTROL_NAME, OUTPUT_NAME, kill_marked, reap, start
from uplink import Uplink
from workfolders import WorkFolders

LOG_LOOK_S = 0.25
SWEEP_S = 15.0  # what a job leaves in a session of its own may live so long
RETURN_AFTER_S = 1.0  # an order that found no slot by then may find one elsewhere
END_GRACE_S = 5.0  # what runs when the node has ended may take so long to stop
AHEAD_MOST = 32
GATHER_S = 0.005  # while there is work at hand, results go up together: a call costs the master the same for ten as for one
AHEAD_SPAN_S = 0.1  # orders taken ahead must be worked off within this
REMEMBERED = 4096


class Worker:
    """Orders come in by `take`, leave as results by the journal; `run` until the machine is to end.

    `interruption` is watched where the cloud may take the machine back."""

    def __init__(self, master, machine, journal, identity, interruption=None):
        # type: (...) -> None
        self._machine = machine
        self._journal = journal
        self._slots = identity["slots"]
        self._lease_s = identity["lease_s"]
        self._log_limit = identity.get("log_limit", 16 << 20)
        self._uplink = Uplink(master, identity.get("heartbeat_timeout_s", 90))
        self._interruption = interruption
        self._waiting = {}  # type: dict  # order and when it came, by attempt
        self._running = {}  # type: dict  # Running by pid
        self._tails = {}  # type: dict  # LogTail by attempt
        self._watches = {}  # type: dict  # control.Watch by attempt that runs
        self._past = {}  # type: dict  # attempts ended lately: a repeated order must not run again
        self._folders = WorkFolders(machine.path("work"), self._slots)
        self._draining = False
        self._mean_s = None  # type: float | None
        self._answered = 0.0
        self._environment = {k: v for k, v in os.environ.items() if k in _KEPT}
        self._engine = Engine(machine.state, self._environment)
        self._said = {}  # type: dict  # the news in the call under way
        self._look_at = 0.0
        self._sweep_at = None  # type: float | None  # once an attempt has ended
        self._selector = selectors.DefaultSelector()
        self._wake_r, self._wake_w = os.pipe()

    def run(self):
        # type: () -> str
        """Work until the master says the node has ended, or the lease is over. Returns why."""
        for end in (self._wake_r, self._wake_w):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._wake_w, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._selector.register(self._wake_r, selectors.EVENT_READ)
        self._recover()
        while True:
            self._start_what_fits()
            self._call()
            for key, _ in self._selector.select(self._pause_s()):
                if key.fd == self._wake_r:
                    _drain(self._wake_r)
            self._reap()
            self._keep_time()
            if self._interruption is not None:
                self._interruption.step(self._selector)
            if self._uplink.gone:
                self._end_all("cancelled")
                return "the master has ended this node"
            if self._uplink.silent_s() > self._lease_s and not self._running and not self._waiting:
                return "no master answered for %d s and nothing runs here" % self._lease_s

    def _recover(self):
        # type: () -> None
        """After a restart of the agent: what had begun is ended and given up, what had not is done now."""
        artifacts.forget_reports(self._machine.state)
        for attempt, order in list(self._journal.orders.items()):
            if attempt in self._journal.ended:
                self._tail(attempt).close()
            elif attempt in self._journal.begun:
                killed = kill_marked(self._work(attempt))
                self._tail(attempt)
                self._end(attempt, "lost", detail="the agent died while it ran (%d process(es) left were ended)" % killed)
            else:
                self._waiting[attempt] = (order, time.monotonic())
        if self._journal.orders:
            say("took up %d attempt(s) from the journal" % len(self._journal.orders))

    def _take(self, answer):
        # type: (dict) -> None
        """What the master said."""
        self._answered = time.monotonic()
        self._draining = bool(answer.get("draining"))
        self._engine.told(self._said.get("health"))
        for report in self._said.get("progress", ()):
            if report["attempt"] in self._watches:
                self._watches[report["attempt"]].told({key: report[key] for key in report if key != "attempt"})
        if self._interruption is not None:
            self._interruption.told(self._said.get("reclaim_at"))
        for item in answer.get("logs", ()):
            if item["attempt"] in self._tails:
                self._tails[item["attempt"]].acknowledge(item["offset"])
        for attempt in answer.get("acknowledged", ()):
            if attempt not in self._tails or self._tails[attempt].all_acknowledged():
                self._forget(attempt)  # else the master lost some of the log: both go up again
        for order in answer.get("orders", ()):
            attempt = order["attempt"]
            if attempt not in self._past and attempt not in self._journal.orders and attempt not in self._journal.ended:
                self._accept(order)
        for item in answer.get("stop", ()):
            self._stop(item["attempt"], item["why"])

    def _accept(self, order):
        # type: (dict) -> None
        try:
            self._journal.accept(order)
        except OSError as error:
            self._journal.refuse(_result(order["attempt"], "returned", detail="handed back: no room for it: %s" % error))
            self._engine.check()
        else:
            self._waiting[order["attempt"]] = (order, time.monotonic())

    def _why_closed(self):
        # type: () -> str
        """Why no task is started here now; "" while tasks are."""
        return "the node is draining" if self._draining else self._engine.trouble

    def _start_what_fits(self):
        # type: () -> None
        while self._waiting and not self._draining:
            attempt, (order, _) = next(iter(self._waiting.items()))
            if not self._has_slots_for(order) or not self._engine.ready():
                break
            self._start(attempt)
        closed = self._why_closed()
        for attempt in list(self._waiting) if closed else ():
            self._give_back(attempt, "handed back: %s" % closed)

    def _start(self, attempt):
        # type: (int) -> None
        order, _ = self._waiting.pop(attempt)
        self._journal.begin(attempt)
        self._tail(attempt)
        reach("agent.spawn.before")
        try:
            self._folders.take(self._work(attempt))
            running = start(order, self._work(attempt), self._log(attempt), self._environment)
        except (OSError, ValueError) as error:
            self._end(attempt, "start_failed", detail="the machine could not start it: %s" % error)
            self._engine.check()
        else:
            self._running[running.pid] = running
            self._watches[attempt] = control.Watch(running.work + CONTROL_NAME)
            reach("agent.spawn.after")

    def _reap(self):
        # type: () -> None
        if not self._running and not self._engine.probing:
            return
        for pid, code in reap():
            running = self._running.pop(pid, None)
            if running is None:
                self._engine.ended(pid, code)
                continue
            if isinstance(running, artifacts.Upload):
                outcome, more = running.result(code)
                self._end(running.attempt, outcome, **more)
                continue
            del self._watches[running.attempt]
            took_s = time.monotonic() - running.started
            self._mean_s = took_s if self._mean_s is None else self._mean_s * 0.8 + took_s * 0.2
            if running.stopping:
                kill_marked(running.work)  # it was stopped, and so is what had left its group
            more = {"exit_code": code, "started_at": running.started_at}
            asked = control.read(running.work + CONTROL_NAME)
            if asked is not None:
                more["control"] = asked
            said = outputs.read(running.work + OUTPUT_NAME)
            if said is not None:
                more["outputs"] = said
            if not self._uploads(running, code, more):
                self._end(running.attempt, running.stopping or "exited", **more)
            if self._sweep_at is None:
                self._sweep_at = time.monotonic() + SWEEP_S

    def _uploads(self, running, code, more):
        # type: (...) -> bool
        """Whether artifacts go up first: the attempt ends after them, so that an accepted result has all of its own."""
        outcome = running.stopping or "exited"
        wanted = artifacts.wanted_of(self._journal.orders.get(running.attempt, {}), outcome, code)
        if wanted is None:
            return False
        try:
            report = self._machine.path("%s%d" % (artifacts.REPORT, running.attempt))
            upload = artifacts.Upload(running, outcome, more, wanted, report, self._environment)
        except OSError as error:
            more["artifacts"] = {"whole": False, "told": "the upload of its artifacts could not be started: %s" % error}
            return False
        self._running[upload.pid] = upload
        return True

    def _end(self, attempt, outcome, **more):
        # type: (int, str, **object) -> None
        tail = self._tails.get(attempt)
        self._journal.end(_result(attempt, outcome, log_size=tail.close() if tail else 0, **more))

    def _stop(self, attempt, why):
        # type: (int, str) -> None
        """Cancelled, or fenced: the master has given this attempt up, and a result would come too late."""
        if attempt in self._waiting:
            del self._waiting[attempt]
            self._end(attempt, "cancelled")
        for running in self._running.values():
            if running.attempt == attempt:
                say("stopping attempt %d: %s" % (attempt, why))
                running.stop("cancelled")

    def _end_all(self, outcome):
        # type: (str) -> None
        """Stop what runs, and wait for it: a machine that stays up must not go on with what runs elsewhere by now."""
        for running in self._running.values():
            running.stop(outcome)
        self._reap_until(time.monotonic() + END_GRACE_S)
        kill_marked(self._machine.path("work"))
        self._reap_until(time.monotonic() + 1.0)

    def _reap_until(self, deadline):
        # type: (float) -> None
        """Until nothing runs any more, or it is time."""
        while self._running and time.monotonic() < deadline:
            time.sleep(0.05)
            self._reap()

    def _give_back(self, attempt, why):
        # type: (int, str) -> None
        del self._waiting[attempt]
        self._end(attempt, "returned", detail=why)

    def _forget(self, attempt):
        # type: (int) -> None
        self._journal.acknowledged(attempt)
        tail = self._tails.pop(attempt, None)
        if tail is not None:
            tail.remove()
            self._folders.give_back(self._work(attempt))
        self._past[attempt] = True
        if len(self._past) > REMEMBERED:
            del self._past[next(iter(self._past))]

    def _keep_time(self):
        # type: () -> None
        now = time.monotonic()
        self._engine.keep_time(now)
        if now >= self._look_at:
            self._look_at = now + LOG_LOOK_S
            for running in self._running.values():
                self._tails[running.attempt].look()
                if running.attempt in self._watches:  # not one whose artifacts are on their way
                    self._watches[running.attempt].look(now)
        if self._sweep_at is not None and now >= self._sweep_at:
            self._sweep()
        for running in self._running.values():
            running.check_time(now)
        for attempt, (order, came) in list(self._waiting.items()):
            if now - came > RETURN_AFTER_S and not self._has_slots_for(order):
                self._give_back(attempt, "handed back: no slot was free for it in time")

    def _sweep(self):
        # type: () -> None
        """End what attempts that are over have left in sessions of their own. The process table is too long to be read
        at the end of each."""
        self._sweep_at = None
        kill_marked(self._machine.path("work"), spared=[running.work for running in self._running.values()])

    def _call(self):
        # type: () -> None
        """Keep one call with the master under way; one that waits there is overtaken when there is something to say."""
        answer = self._uplink.step(self._selector, self._message)
        while answer is not None:
            self._take(answer)
            self._start_what_fits()
            answer = self._uplink.step(self._selector, self._message)

    def _message(self, overtaking):
        # type: (bool) -> dict | None
        """The next sync. None while results gather, and while a call waits at the master and there is no news."""
        if self._gather_s() > 0:
            return None
        budget = [LogTail.CHUNK_TOTAL]
        logs = [chunk for attempt, tail in self._tails.items() for chunk in tail.chunks(attempt, budget)]
        results = [result for attempt, result in self._journal.ended.items() if self._log_is_up(attempt)]
        news = self._news()
        if overtaking and not logs and not results and not news:
            return None
        self._said = news
        message = {
            "wait_s": 0 if logs or results or news else min(self._uplink.wait_s, self._lease_s / 3),
            "free": 0 if self._why_closed() else max(0, self._slots + self._ahead() - self._held()),
            "known": list(self._journal.orders),
            "stopping": [running.attempt for running in self._running.values() if running.stopping],
            "draining": self._draining,
            "results": results[:500],
            "logs": logs,
        }
        message.update(news)
        return message

    def _news(self):
        # type: () -> dict
        """Of the machine itself, and of the progress of what runs."""
        news = {} if self._engine.news is None else {"health": self._engine.news}
        if self._interruption is not None and self._interruption.news is not None:
            news["reclaim_at"] = self._interruption.news
        progress = [dict(watch.news, attempt=attempt) for attempt, watch in self._watches.items() if watch.news is not None]
        if progress:
            news["progress"] = progress
        return news

    def _held(self):
        # type: () -> int
        """Slots of what it has."""
        return self._taken() + sum(order.get("slots", 1) for order, _ in self._waiting.values())

    def _taken(self):
        # type: () -> int
        return sum(running.slots for running in self._running.values())

    def _has_slots_for(self, order):
        # type: (dict) -> bool
        return self._taken() + order.get("slots", 1) <= self._slots

    def _gather_s(self):
        # type: () -> float
        if len(self._waiting) < self._slots:
            return 0.0
        return self._answered + GATHER_S - time.monotonic()

    def _log_is_up(self, attempt):
        # type: (int) -> bool
        """A result goes up with or after the last of its log, so that an accepted result has its whole log."""
        tail = self._tails.get(attempt)
        return tail is None or tail.all_sent()

    def _ahead(self):
        # type: () -> int
        """How many orders are worth having beyond the slots: none while every slot has one that takes its time."""
        if self._mean_s is None or self._mean_s > AHEAD_SPAN_S:
            return 0
        if self._taken() >= self._slots:
            youngest = max(running.started for running in self._running.values())
            if time.monotonic() - youngest > AHEAD_SPAN_S:
                return 0
        return min(AHEAD_MOST, int(self._slots * AHEAD_SPAN_S / max(self._mean_s, 1e-4)))

    def _pause_s(self):
        # type: () -> float
        """Until the next thing that no file descriptor tells of."""
        pause_s = 1.0
        if self._running:
            now = time.monotonic()
            ends = [running.deadline - now for running in self._running.values() if running.deadline is not None]
            gather_s = self._gather_s()
            pause_s = min([LOG_LOOK_S, gather_s if gather_s > 0 else LOG_LOOK_S, *ends])
        elif self._uplink.idle:
            pause_s = 5.0
        if self._interruption is not None:
            pause_s = min(pause_s, self._interruption.pause_s())
        return max(0.0, min(pause_s, self._uplink.pause_s()))

    def _tail(self, attempt):
        # type: (int) -> LogTail
        self._tails[attempt] = LogTail(self._log(attempt), self._log_limit)
        return self._tails[attempt]

    def _work(self, attempt):
        # type: (int) -> str
        return self._machine.path("work", str(attempt))

    def _log(self, attempt):
        # type: (int) -> str
        return self._machine.path("logs", str(attempt))


_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "USER", "LOGNAME", "SHELL", "TMPDIR", "ORCHESTRATOR_ROOT")


def _result(attempt, outcome, log_size=0, **more):
    # type: (int, str, int, **object) -> dict
    return dict({"attempt": attempt, "outcome": outcome, "finished_at": time.time(), "log_size": log_size}, **more)


def _drain(pipe):
    # type: (int) -> None
    try:
        os.read(pipe, 4096)
    except BlockingIOError:
        pass
