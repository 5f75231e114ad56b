"""ClaimsActor: whoever holds a name here hears of later claims, from the feed or by comparing."""

from __future__ import annotations

from actors.claims import ClaimsActor
from actors.consumer_protocol import Claimed, CompareClaims, Hold, LetGo, StartClaims
from tests.scripted_store import ScriptedStore
from tests.stand_ins import Outsider, StandInSystem


class Bench:
    def __init__(self) -> None:
        self.system = StandInSystem()
        self.store = ScriptedStore()
        self.claims = self.system.create(ClaimsActor)
        self.claims.tell(StartClaims(self.store))

    def hold(self, client_id: str, subscriber_id: int) -> Outsider:
        subscriber = Outsider(f"s{subscriber_id}")
        self.claims.tell(Hold(client_id, subscriber_id), subscriber)
        return subscriber


def test_who_holds_a_name_is_told_of_claims_of_it_and_nobody_else_is() -> None:
    bench = Bench()
    one, two, other = bench.hold("c", 1), bench.hold("c", 2), bench.hold("d", 3)
    bench.claims.tell(Claimed("c", 7))
    bench.claims.tell(Claimed("nobody", 8))
    assert one.received == two.received == [Claimed("c", 7)]
    assert other.received == []


def test_who_let_go_is_told_nothing_more() -> None:
    bench = Bench()
    one, two = bench.hold("c", 1), bench.hold("c", 2)
    bench.claims.tell(LetGo("c", 1), one)
    bench.claims.tell(LetGo("c", 1), one)
    bench.claims.tell(LetGo("never held", 1), one)
    bench.claims.tell(Claimed("c", 7))
    assert one.received == [] and two.received == [Claimed("c", 7)]


def test_after_an_interruption_the_latest_claims_are_asked_for() -> None:
    bench = Bench()
    one, other = bench.hold("c", 1), bench.hold("d", 2)
    bench.store.claimed = {"c": (5, 99), "unheard of": (6, 1)}
    bench.claims.tell(CompareClaims())
    bench.system.settle()
    assert one.received == [Claimed("c", 5)] and other.received == []


def test_a_comparison_that_fails_is_made_again() -> None:
    bench = Bench()
    one = bench.hold("c", 1)
    bench.store.claimed = {"c": (5, 99)}
    bench.claims.tell(CompareClaims())
    bench.claims.work("claims").fail()
    bench.system.run()
    assert one.received == []
    bench.system.fire_timers()
    bench.system.settle()
    assert one.received == [Claimed("c", 5)]


def test_names_nobody_holds_are_not_compared() -> None:
    bench = Bench()
    bench.claims.tell(LetGo("c", 1), bench.hold("c", 1))
    bench.claims.tell(CompareClaims())
    assert bench.claims.works == []
