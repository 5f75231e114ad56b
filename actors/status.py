"""Thespian's status answers (`Thespian_StatusReq`), for its shell and for whoever debugs a system."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from thespian.actors import Thespian_ActorStatus, Thespian_SystemStatus
from thespian.system.timing import ExpirationTimer

if TYPE_CHECKING:
    from actors.cell import Cell
    from actors.population import Population


def actor_status(cell: Cell, population: Population) -> Thespian_ActorStatus:
    """One actor: its children, what waits in the mailbox for it, its timers. Walks the mailbox."""
    status = Thespian_ActorStatus(
        cell,
        type(cell.actor).__name__,
        population.system_address,
        parentAddress=cell.parent,
        sourceHash=cell.source_hash,
    )
    for child in (cell.children or {}).values():
        status.addChild(child)
    for _receiver, message, sender in population.mailbox.waiting_for(cell):
        status.addPendingMessage(sender, cell, message)
    now = time.monotonic()
    status.addWakeups([(cell, ExpirationTimer(timer.when - now)) for timer in cell.timers or ()])
    return status


def system_status(population: Population) -> Thespian_SystemStatus:
    """The system: its capabilities, primary actors, global names, sources."""
    status = Thespian_SystemStatus(
        population.system_address, capabilities=population.capabilities, inShutdown=population.is_closed
    )
    for cell in population.primary():
        status.addChild(cell)
    for name, cell in population.global_names.items():
        status.addGlobalActor(name, cell)
    status.setDeadLetterHandler(population.dead_letter_handler)
    status.sourceAuthority = population.sources.authority
    status.loadedSources = [(source_hash, "") for source_hash in population.sources.hashes()]
    return status
