"""Counters: what the actors of one worker count; formatted as metrics at the edge."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """Plain integers the actors of one worker add to; formatted as metrics at the edge."""

    messages_published: int = 0
    messages_delivered: int = 0
    replayed_publishes: int = 0
    refused_publishes: int = 0
    append_batches: int = 0
    hot_hits: int = 0
    hot_misses: int = 0
    gaps: int = 0
    resets: int = 0
    order_inversions: int = 0
    duplicates: int = 0
    unannounced_gaps: int = 0
    lagging_subscribers: int = 0
    demotions: int = 0
    trimmed_messages: int = 0
    takeovers: int = 0
    topics_failed: int = 0
