"""The banner that the demo prints once it runs."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console

_console = Console(highlight=False, soft_wrap=True)


def print_banner(described: dict[str, Any], graphiql_dir: str) -> None:
    """Print all addresses, and the three lines to copy. ``described``: what ``demo.json`` holds."""
    url, token, meter_id = described["graphql_url"], described["token"], described["meter_id"]
    curl = f"curl -s {url} -H 'authorization: Bearer {token}' -H 'content-type: application/json' -d"
    balance = (
        "{ viewer { meters { nodes { id label balance { ledger { display } onMeter { display } inFlight { display } "
        "lasts { daysLikely } } topUps(first: 3) { nodes { id status pay { display } } } } } } }"
    )
    start = (
        "mutation($k: ID!) { topUpStart(input: { idempotencyKey: $k, "
        f'meterId: "{meter_id}", methodId: "sandbox", '
        'pay: { amount: "200.00", currency: "KES" } }) '
        "{ topUp { id status nextAction { instructions } } userErrors { message } } }"
    )
    has_ide = Path(graphiql_dir).is_dir()
    day_min = 1440 / described["clock_factor"]
    _console.print()
    _console.print(f"[bold]Standpipe is running.[/] A day in town passes in {day_min:.3g} minutes.")
    _console.print(f"  GraphQL       {url}" + (f"?token={token}&meter={meter_id}" if has_ide else ""), markup=False)
    _console.print(f"  Fake phone    {described['fake_phone_url']}    (pushes and sign-in codes)", markup=False)
    _console.print(
        f"  M-Pesa        {described['fake_mpesa_url']}    (phones that ring, and paybill by meter number)",
        markup=False,
    )
    _console.print(f"  MTN MoMo      {described['fake_momo_url']}    (phones that ring)", markup=False)
    _console.print(f"  Keypads       {described['keypads_url']}    (type a token on a meter)", markup=False)
    _console.print(f"  Google        {described['fake_google_url']}    (sign in by Firebase)", markup=False)
    _console.print(f"  Statement     {described['statement_url']}    (last month, as PDF)", markup=False)
    _console.print(f"  Demo token    {token}", markup=False)
    _console.print(f"  Phone number  {described['phone_number']}    (to sign in by code)", markup=False)
    _console.print("\n[bold]1. Look at the balance[/]")
    _console.print(f"{curl} '{json.dumps({'query': balance})}'", markup=False)
    _console.print("\n[bold]2. Start a top-up[/] (a new key each time is a new top-up)")
    body = json.dumps({"query": start, "variables": {"k": "KEY"}}).replace("KEY", "'$(date +%s%N)'")
    _console.print(f"{curl} '{body}'", markup=False)
    _console.print("\n[bold]3. Approve it[/] (put the top-up's id in), then repeat line 1: it travels to the meter")
    _console.print(f"curl -s -X POST {described['approve_url'].replace('{top_up_id}', 'TOP_UP_ID')}", markup=False)
    _console.print(
        "\nOther ways to pay: put mpesa, momo, stripe_checkout or flutterwave for sandbox in line 2. The office: "
        "source .data/demo.env, then standpipe reconcile report."
    )
    _console.print("\nCtrl-C stops everything.")
