#!/usr/bin/python3
"""In the place of nvidia-smi, as far as MIG goes: two H100, as strict as the real one about modes, profiles and places.

It keeps what it was told in STATE. Listings are in the real one's form; its words of refusal are, too, where known.
"""

import json
import sys
from pathlib import Path

# Below /run, so that a reboot forgets it; from Hopper on the mode goes with a boot, too.
STATE = Path("/run/nvidia-smi.json")
USERS = Path("/run/nvidia-smi.users")
# Name, number, how many, and slices of memory of eight.
PROFILES = (
    ("1g.10gb", 19, 7, 1),
    ("1g.10gb+me", 20, 1, 1),
    ("1g.20gb", 15, 4, 2),
    ("2g.20gb", 14, 3, 2),
    ("3g.40gb", 9, 2, 4),
    ("4g.40gb", 5, 1, 4),
    ("7g.80gb", 0, 1, 8),
)
RULE = "+" + "-" * 79 + "+"


def end(text: str, code: int = 1) -> None:
    print(text)
    sys.exit(code)


def main(words: list) -> None:
    state = json.loads(STATE.read_text()) if STATE.exists() else [{"mode": False, "instances": []} for _ in range(2)]
    chosen = range(2)
    if "-i" in words:
        place = words.index("-i")
        chosen = [int(number) for number in words[place + 1].split(",")]
        del words[place : place + 2]
    if words[:1] == ["--query-gpu=index,name,mig.mode.current,mig.mode.pending"]:
        for number, card in enumerate(state):
            mode = "Enabled" if card["mode"] else "Disabled"
            print(f"{number}, NVIDIA H100 80GB HBM3, {mode}, {mode}")
    elif words[:1] == ["--query-compute-apps=pid,process_name"]:
        print(USERS.read_text() if USERS.exists() else "", end="")
    elif words == ["mig", "-lgip"]:
        for number in chosen:
            for name, key, most, _slices in PROFILES:
                print(
                    f"|   {number}  MIG {name:15}{key:>3}     {most}/{most}        9.75       No     16     1     0   |\n{RULE}"
                )
    elif words == ["mig", "-lgi"]:
        if not any(card["mode"] for card in state):
            end("No MIG-enabled devices found.", 6)
        if not any(card["instances"] for card in state):
            end("No GPU instances found: Not Found", 6)
        for number, card in enumerate(state):
            for one, key in enumerate(card["instances"]):
                name = next(profile[0] for profile in PROFILES if profile[1] == key)
                print(f"|   {number}  MIG {name:15}{key:>3}     {one:>3}          {one}:1     |\n{RULE}")
    elif words[:1] == ["-mig"]:
        for number in chosen:
            if state[number]["instances"]:
                end(f"Unable to change MIG Mode for GPU {number}: In use by another client", 255)
            state[number]["mode"] = words[1] == "1"
    elif words[:2] == ["mig", "-cgi"] and words[3:] == ["-C"]:
        for number in chosen:
            create(number, state[number], [int(key) for key in words[2].split(",")])
    elif words in (["mig", "-dci"], ["mig", "-dgi"]):
        for number in chosen:
            # Compute instances are not kept apart: only that they go first.
            if words[1] == "-dgi" and state[number].get("computes"):
                end("Unable to destroy GPU instance: In use by another client", 19)
            state[number]["computes"] = False
            state[number]["instances"] = [] if words[1] == "-dgi" else state[number]["instances"]
    else:
        end(f"Invalid combination of input arguments: {words}", 2)
    STATE.write_text(json.dumps(state))


def create(number: int, card: dict, keys: list) -> None:
    known = {profile[1]: profile for profile in PROFILES}
    if not card["mode"]:
        end(f"Unable to create a GPU instance on GPU {number}: Not Supported", 3)
    for key in keys:
        if key not in known:
            end(f"Unable to find GPU instance profile {key} on GPU {number}: Not Found", 6)
        there = [known[one] for one in card["instances"]]
        full = (
            sum(profile[3] for profile in there) + known[key][3] > 8 or sum(p[1] == key for p in there) >= known[key][2]
        )
        if full:
            end(f"Unable to create a GPU instance on GPU {number} using profile {key}: Insufficient Resources", 4)
        card["instances"].append(key)
    card["computes"] = True


main(sys.argv[1:])
