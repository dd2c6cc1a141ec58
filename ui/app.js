// The console: what a node knows, live. Reads the same API as everybody (/v1), keeps nothing, changes nothing.
import { html, render, useEffect, useState } from './vendor/htm-preact.js';

const EVERY = 1000; // ms between two looks; a page in a hidden tab does not look
const pages = { services: Services, graph: Graph, topics: Topics, sagas: Sagas };

async function ask(path) {
  const answer = await fetch(path, { headers: { accept: 'application/json' } });
  if (!answer.ok) throw new Error(`${path}: ${answer.status} ${(await answer.text()).slice(0, 200)}`);
  return answer.json();
}

/** The answer of `path`, asked again every second; [value, error]. */
function useLive(path) {
  const [state, set] = useState([null, null]);
  useEffect(() => {
    if (!path) return set([null, null]);
    let live = true, timer;
    const look = async () => {
      if (!document.hidden) {
        try { const value = await ask(path); if (live) set([value, null]); }
        catch (error) { if (live) set(([value]) => [value, error]); }
      }
      if (live) timer = setTimeout(look, EVERY);
    };
    look();
    return () => { live = false; clearTimeout(timer); };
  }, [path]);
  return state;
}

function useHash() {
  const read = () => location.hash.slice(2).split('/').map(decodeURIComponent);
  const [at, set] = useState(read());
  useEffect(() => { const on = () => set(read()); addEventListener('hashchange', on); return () => removeEventListener('hashchange', on); }, []);
  return at;
}
const go = (...parts) => { location.hash = '/' + parts.map(encodeURIComponent).join('/'); };

function Cli({ command }) {
  const [done, set] = useState(false);
  const copy = () => navigator.clipboard.writeText(command).then(() => { set(true); setTimeout(() => set(false), 1200); });
  return html`<button title=${command} onClick=${copy}>${done ? 'copied' : 'copy as CLI'}</button>`;
}
const Head = ({ title, cli }) => html`<div class="head"><h2>${title}</h2><${Cli} command=${cli} /></div>`;
const Error_ = ({ error }) => error && html`<p class="bad">${String(error.message)}</p>`;
const colour = { passing: 'good', warning: 'warn', critical: 'bad', up: '', draining: 'warn', suspect: 'warn',
  done: 'good', running: '', compensating: 'warn', undone: 'quiet', stuck: 'bad', failed: 'bad' };
const Word = ({ of }) => html`<span class=${'dot ' + (colour[of] ?? '')}>${of}</span>`;
const number = (value, digits = 0) => (value ?? 0).toLocaleString('en', { maximumFractionDigits: digits });
const short = (time) => time ? time.slice(11, 23) : '';

function Services({ rest: [namespace, name] }) {
  const [value, error] = useLive('/v1/services?allNamespaces');
  const [one] = useLive(name && `/v1/namespaces/${namespace}/services/${name}`);
  const [proxies] = useLive('/v1/proxies');
  return html`<${Error_} error=${error} /><div class="columns"><section>
    <${Head} title="Services" cli="causeway get services" />
    <table><thead><tr><th>Service</th><th class="n">Instances</th><th class="n">Passing</th><th>Versions</th></tr></thead><tbody>
    ${value?.services.map((s) => html`<tr class=${'can' + (s.name === name && s.namespace === namespace ? ' chosen' : '')}
      onClick=${() => go('services', s.namespace, s.name)}>
      <td>${s.namespace === 'default' ? s.name : `${s.namespace}/${s.name}`}</td><td class="n">${s.instances}</td>
      <td class=${'n ' + (s.passing < s.instances ? 'bad' : '')}>${s.passing}</td><td>${(s.versions ?? []).join(', ')}</td></tr>`)}
    </tbody></table>
    <h2>Proxies</h2>
    <table><thead><tr><th>Identity</th><th>Connected since</th><th class="n">Revision</th></tr></thead><tbody>
    ${proxies?.proxies.map((p) => html`<tr><td>${p.identity?.replace(/^spiffe:\/\/[^/]+\/ns\/([^/]+)\/svc\//, '$1/')}</td>
      <td>${short(p.since)}</td><td class="n">${p.acknowledged}</td></tr>`)}</tbody></table>
    </section><section>${name && html`
    <${Head} title=${`Instances of ${name}`} cli=${`causeway get instances ${name} -n ${namespace}`} />
    <table><thead><tr><th>Instance</th><th>Address</th><th>Version</th><th>Health</th><th>State</th></tr></thead><tbody>
    ${one?.instances.map((i) => html`<tr><td>${i.id}</td><td>${i.address}:${i.port}${i.mesh ? html` <span class="quiet">mTLS</span>` : ''}</td>
      <td>${i.version}</td><td><${Word} of=${i.health} /></td><td><${Word} of=${i.lifecycle} /></td></tr>`)}
    </tbody></table>`}</section></div>`;
}

/** Places services in columns: callers left of those they call. */
function place(edges) {
  const names = [...new Set(edges.flatMap((e) => [e.source, e.target]))].sort();
  const depth = Object.fromEntries(names.map((n) => [n, 0]));
  for (let round = 0; round < names.length; round++) // bounded, so that a circle of calls ends too
    for (const e of edges) if (depth[e.target] < depth[e.source] + 1 && depth[e.source] + 1 < names.length) depth[e.target] = depth[e.source] + 1;
  const columns = {};
  for (const n of names) (columns[Math.min(depth[n], 5)] ??= []).push(n);
  const spots = {};
  Object.values(columns).forEach((column, x) => column.forEach((n, y) => { spots[n] = { x: 30 + x * 300, y: 20 + y * 70 + (x % 2) * 20 }; }));
  const width = Object.keys(columns).length * 300 - 60, height = Math.max(...Object.values(columns).map((c) => c.length), 1) * 70 + 40;
  return { spots, width, height };
}

function Graph() {
  const [value, error] = useLive('/v1/graph');
  const edges = value?.edges ?? [];
  const { spots, width, height } = place(edges);
  const W = 180, H = 44;
  // A point of the curve below, nearer to its end, where curves into one service have not met yet.
  const along = (a, b, t) => {
    const mix = (p, q, r, s) => (1 - t) ** 3 * p + 3 * (1 - t) ** 2 * t * q + 3 * (1 - t) * t * t * r + t ** 3 * s;
    return { x: mix(a.x + W, a.x + W + 60, b.x - 60, b.x), y: mix(a.y, a.y, b.y, b.y) + H / 2 };
  };
  const curve = (a, b) => `M${a.x + W},${a.y + H / 2} C${a.x + W + 60},${a.y + H / 2} ${b.x - 60},${b.y + H / 2} ${b.x},${b.y + H / 2}`;
  return html`<${Error_} error=${error} /><${Head} title="Who calls whom" cli="curl -s http://127.0.0.1:7070/v1/graph" />
    ${edges.length === 0 ? html`<p class="quiet">No calls in the last seconds.</p>` : html`
    <svg class="graph" viewBox=${`0 0 ${width} ${height}`} style=${`max-width:${width}px`} role="img" aria-label="service graph">
      ${edges.map((e) => html`<path class=${'edge' + (e.failureRate > 0 ? ' bad' : '')} d=${curve(spots[e.source], spots[e.target])}
        stroke-width=${1 + Math.min(6, Math.log10(1 + e.rate) * 2)} />`)}
      ${Object.entries(spots).map(([n, s]) => html`<g><rect class="node" x=${s.x} y=${s.y} width=${W} height=${H} rx="8" />
        <text x=${s.x + W / 2} y=${s.y + 27} text-anchor="middle">${n.replace(/^default\//, '')}</text></g>`)}
      ${edges.map((e) => { const at = along(spots[e.source], spots[e.target], 0.72);
        return html`<text class="label" text-anchor="middle" x=${at.x} y=${at.y - 4}>${number(e.rate, 1)}/s</text>`; })}
    </svg>`}
    <table><thead><tr><th>From</th><th>To</th><th class="n">Requests/s</th><th class="n">Failures/s</th><th class="n">Mean ms</th><th class="n">Max ms</th></tr></thead>
    <tbody>${edges.map((e) => html`<tr><td>${e.source}</td><td>${e.target}</td><td class="n">${number(e.rate, 1)}</td>
      <td class=${'n ' + (e.failureRate > 0 ? 'bad' : '')}>${number(e.failureRate, 1)}</td><td class="n">${number(e.latencyMs, 2)}</td>
      <td class="n">${number(e.latencyMsMax, 1)}</td></tr>`)}</tbody></table>`;
}

function Topics() {
  const [value, error] = useLive('/v1/topics?allNamespaces');
  return html`<${Error_} error=${error} /><${Head} title="Topics" cli="causeway get topics" />
    ${value?.topics.length === 0 && html`<p class="quiet">No topic yet: declare one with a document of kind Topic.</p>`}
    <table><thead><tr><th>Topic</th><th class="n">Events</th><th>Subscription</th><th>To</th><th class="n">Lag</th><th class="n">In flight</th>
      <th class="n">Dead letters</th><th>State</th></tr></thead><tbody>
    ${value?.topics.map((t) => (t.subscriptions.length ? t.subscriptions : [null]).map((s, i) => html`<tr>
      <td>${i === 0 ? t.topic : ''}</td><td class="n">${i === 0 ? number(t.next) : ''}</td>
      ${s ? html`<td>${s.group}</td><td>${s.delivery}</td><td class=${'n ' + (s.lag > 100 ? 'warn' : '')}>${number(s.lag)}</td><td class="n">${number(s.inFlight)}</td>
      <td class=${'n ' + (s.deadLetters ? 'bad' : '')}>${number(s.deadLetters)}</td><td>${s.state}</td>` : html`<td class="quiet" colspan="6">nobody listens</td>`}</tr>`))}
    </tbody></table>`;
}

function Sagas({ rest: [id] }) {
  const [value, error] = useLive('/v1/sagas?limit=50');
  const [one] = useLive(id && `/v1/sagas/${encodeURIComponent(id)}`);
  return html`<${Error_} error=${error} /><div class="columns"><section><${Head} title="Sagas" cli="causeway saga list" />
    <p class="quiet">${Object.entries(value?.counts ?? {}).map(([k, n]) => html`<span style="margin-right:1rem"><${Word} of=${k} /> ${number(n)}</span>`)}</p>
    <table><thead><tr><th>Saga</th><th>Definition</th><th>Status</th><th>Started</th></tr></thead><tbody>
    ${value?.sagas.map((s) => html`<tr class=${'can' + (s.id === id ? ' chosen' : '')} onClick=${() => go('sagas', s.id)}>
      <td><code>${s.id}</code></td><td>${s.definition}</td><td><${Word} of=${s.status} /></td><td>${short(s.startedAt)}</td></tr>`)}</tbody></table>
    </section><section>${one && html`<${Head} title=${one.id} cli=${`causeway saga show ${one.id}`} />
    <p><${Word} of=${one.status} /> ${one.error ?? ''}</p><pre>${JSON.stringify(one.input, null, 1)}</pre>
    <table><thead><tr><th>Time</th><th>Step</th><th>What</th><th>Detail</th></tr></thead><tbody>
    ${one.timeline.map((m) => html`<tr><td>${short(m.at)}</td><td>${m.step ?? ''}</td><td>${m.what}</td><td>${m.detail ?? ''}</td></tr>`)}
    </tbody></table>`}</section></div>`;
}

function App() {
  const [page, ...rest] = useHash();
  const name = pages[page] ? page : 'services';
  const [status, error] = useLive('/v1/status');
  return html`<header><h1>Causeway</h1><nav>${Object.keys(pages).map((p) => html`<a href=${'#/' + p}
      aria-current=${p === name ? 'page' : undefined}>${p[0].toUpperCase() + p.slice(1)}</a>`)}</nav>
    <span class=${'state ' + (error ? 'bad' : 'quiet')}>${error ? 'the node does not answer' : status ? `revision ${status.revision}` : ''}</span></header>
  <main>${status?.problems?.length > 0 && html`<div class="problems"><strong>Documents that are not used as written</strong>
    ${status.problems.map((p) => html`<pre>${p}</pre>`)}</div>`}<${pages[name]} rest=${rest} /></main>`;
}

const root = document.getElementById('app');
root.textContent = '';
render(html`<${App} />`, root);
