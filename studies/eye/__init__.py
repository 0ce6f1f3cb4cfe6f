"""Which loop of a photo moves as it would in the wind? Two side by side, asked of people, blind.

``python -m studies.eye make PHOTO... -o outputs/eye --first modes --second grid`` draws the pairs,
makes the loops and writes ``index.html`` from ``page.html``, which does not know what it shows;
open it from the disk, or put the folder without ``key.json`` on any static host. Observers hand in
what it saves, and ``python -m studies.eye score outputs/eye eye_*.json`` opens that with the key.
"""
