"""The ratios as one SVG: a row a peer, a group of rows a cell. Readable on a light and on a dark page."""
from charts import escape

ROW, GAP, LEFT, WIDTH, TOP = 18, 14, 170, 460, 30
COLOURS = ("#2f6fde", "#8a6fc9", "#c98a3a", "#4f9d69", "#a35b5b")


def ratios(results, peers, cells):
    most = max(one["ratio"] for one in results)
    body, y = [], TOP
    for cell in cells:
        body.append(f'<text x="4" y="{y + 4}" class="cell">{escape(cell)}</text>')
        y += 10
        for number, peer in enumerate(peers):
            found = [one for one in results if one["cell"] == cell and one["peer"] == peer]
            if not found:
                continue
            ratio = found[0]["ratio"]
            body.append(f'<text x="{LEFT - 8}" y="{y + 12}" text-anchor="end">{escape(peer)}</text>'
                        f'<rect x="{LEFT}" y="{y + 2}" width="{max(1, WIDTH * ratio / most):.1f}" height="{ROW - 5}" rx="2" fill="{COLOURS[number % len(COLOURS)]}"/>'
                        f'<text x="{LEFT + WIDTH * ratio / most + 6:.1f}" y="{y + 12}">{ratio:.2f}</text>')
            y += ROW
        y += GAP
    style = ("text{font:12px system-ui,sans-serif;fill:#555}.cell{font-weight:600}"
             "@media (prefers-color-scheme:dark){text{fill:#bbb}}")
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 60} {y}" role="img" aria-label="Share of the raw two-leg limit">'
            f'<style>{style}</style><text x="4" y="14">share of the raw two-leg limit, measured in the same run</text>{"".join(body)}</svg>\n')
