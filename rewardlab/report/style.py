"""Hold the style sheet of all pages."""

# a line that ends in a backslash goes on in the next one
STYLE = """
:root { color-scheme: light dark; --ink: #1c1f23; --soft: #5a616b; --line: #dfe2e6; \
--paper: #fff; --tint: #f5f6f8;
  --good: #2e7d4f; --bad: #c2410c; --flat: #80868f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #a6adb8; --line: #3a3f47; \
--paper: #16181c;
  --tint: #20242a; --good: #6cc08b; --bad: #ff8a4c; --flat: #a6adb8; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 70rem; background: var(--paper); \
color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, \
sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .5rem; overflow-wrap: anywhere; }
.part + .part { margin-top: 4rem; padding-top: 2rem; border-top: 4px solid var(--line); }
a { color: inherit; }
h2 { font-size: 1.15rem; margin: 2.6rem 0 .4rem; padding-top: .8rem; \
border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; }
p { margin: .4rem 0; max-width: 48rem; }
.lead { font-size: 1.1rem; }
.soft, caption, figcaption { color: var(--soft); font-size: .88rem; }
.run { border-left: 4px solid var(--flat); background: var(--tint); border-radius: 0 8px 8px 0; \
padding: .6rem .9rem;
  margin: .7rem 0; }
.run p { max-width: none; }
.run.warned { border-color: #b7791f; }
.run.good { border-color: var(--good); } .run.bad { border-color: var(--bad); }
.good .verdict { color: var(--good); } .bad .verdict { color: var(--bad); }
.verdict { font-weight: 600; }
.scroll { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
caption { caption-side: bottom; text-align: left; padding: .5rem 0; \
max-width: min(60rem, calc(100vw - 2rem)); }
th, td { padding: .35rem .9rem .35rem 0; text-align: left; vertical-align: top; \
border-bottom: 1px solid var(--line); }
thead th { border-bottom: 2px solid var(--line); vertical-align: bottom; }
tbody th { font-weight: 600; min-width: 6rem; max-width: 20rem; overflow-wrap: break-word; }
td small, th small { display: block; color: var(--soft); white-space: nowrap; font-weight: 400; }
code { font-size: .92em; background: var(--tint); border-radius: 4px; padding: .05em .25em; }
table.text { width: 100%; }
.text td, .text tbody th { white-space: pre-wrap; overflow-wrap: anywhere; min-width: 11rem; \
max-width: 26rem; font-weight: 400; }
.text tbody th { color: var(--soft); }
.turn { margin: 0 0 .35rem; } .turn b { display: block; font-size: .8rem; color: var(--soft); }
.facts td, .facts tbody th { overflow-wrap: anywhere; }
.figures { display: grid; grid-template-columns: \
repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 1rem; margin: .6rem 0; }
figure { margin: 0; break-inside: avoid; max-width: 36rem; }
figure.wide { max-width: 52rem; grid-column: 1 / -1; }
figure img { display: block; width: 100%; height: auto; background: #fff; \
border: 1px solid var(--line); border-radius: 8px; }
figure a { overflow-wrap: anywhere; }
figcaption { padding: .3rem .1rem; }
details { margin: .6rem 0; } summary { cursor: pointer; font-weight: 600; }
pre { overflow-x: auto; background: var(--tint); border-radius: 8px; padding: .8rem; \
font-size: .8rem; line-height: 1.4; }
@media (max-width: 40rem) { body { padding: 1rem .8rem 3rem; } \
table.text, .text tbody, .text tr, .text td, .text tbody th, .text caption { display: block; \
min-width: 0; max-width: none; } .text thead { display: none; }
  .text tr { border-top: 2px solid var(--line); padding: .4rem 0; }
  .text td, .text tbody th { border: 0; padding: .2rem 0; }
  .text [data-column]::before { content: attr(data-column); display: block; font-size: .8rem; \
font-weight: 600; color: var(--soft); } }
@media print { :root { --ink: #000; --paper: #fff; --soft: #444; --tint: #f5f6f8; --line: #ccc; \
--good: #2e7d4f;
  --bad: #c2410c; } body { max-width: none; padding: 0; font-size: 11pt; } \
.scroll { overflow: visible; }
  .figures { grid-template-columns: 1fr 1fr; } h2, h3 { break-after: avoid; } \
tr { break-inside: avoid; } }
"""
