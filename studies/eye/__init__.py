"""Which loop of a photo moves as it would in the wind? Two side by side, asked of people, blind.

``make`` draws the pairs, makes the loops and writes the page, ``page.html``, which does not know
what it shows. ``score`` reads what the page saved, and the key, which only it opens.
"""
