"""Accounts and the Discord accounts of their people: signing in with Discord, and linking one with the other."""

from __future__ import annotations

from app.services.discord_accounts.codes import LinkCodes
from app.services.discord_accounts.linking import DiscordLinking, LinkCode, Linked, Moving, Offer
from app.services.discord_accounts.sign_in import Arrival, Arrived, Departure, DiscordSignIn
from app.services.discord_accounts.tickets import TICKET_LASTS, Ticket, TicketKind, Tickets

__all__ = [
    "TICKET_LASTS",
    "Arrival",
    "Arrived",
    "Departure",
    "DiscordLinking",
    "DiscordSignIn",
    "LinkCode",
    "LinkCodes",
    "Linked",
    "Moving",
    "Offer",
    "Ticket",
    "TicketKind",
    "Tickets",
]
