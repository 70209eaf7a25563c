'use strict';
// Draws the report from the data block of this page. Text from files is only ever set as text, never as markup.
(() => {
  const data = JSON.parse(document.getElementById('data').textContent);
  const report = data.report;
  // As page.cpp lists them; a command's layer and step are put back.
  const findings = data.findings.rows.map(([case_of, mode, step, layer, row, kind, reason, pattern, cause, start, command, index, actual, expected]) => {
    const text = (i) => data.findings.texts[i];
    const name = data.grid.tensors[row].name;
    return {case: text(case_of), mode: text(mode), step, layer, row, kind: text(kind), reason, pattern: text(pattern), cause: text(cause),
            tensor: layer === null ? name : `model.layers.${layer}.${name}`, start: text(start), index, actual, expected,
            command: text(command).replace(' --layers \u0001', ` --layers ${layer}`).replace(' --steps \u0001', ` --steps ${step}`)};
  });
  const byId = (id) => document.getElementById(id);

  // element('td', {class: 'wrong'}, 'text', child, ...)
  function element(tag, attributes, ...children) {
    const svg = ['svg', 'g', 'rect', 'line', 'path', 'text', 'title'].includes(tag);
    const node = svg ? document.createElementNS('http://www.w3.org/2000/svg', tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (typeof value === 'function') node.addEventListener(name, value);
      else node.setAttribute(name, value === true ? '' : value);
    }
    for (const child of children.flat()) {
      if (child === null || child === undefined) continue;
      node.append(child instanceof Node ? child : String(child));
    }
    return node;
  }
  const show = (id, ...children) => byId(id).replaceChildren(...children.flat().filter((child) => child !== null));
  const counted = (count, what) => `${count} ${what}${count === 1 ? '' : 's'}`;
  // Three digits: 0.342, 24.6, 246000, 2.46e+7.
  const figure = (value) => typeof value !== 'number' ? String(value)
    : Math.abs(value) >= 1e6 && Number.isFinite(value) ? value.toExponential(2) : Number(value.toPrecision(3)).toString();

  // Looks like a link, and goes to a place of this page.
  const link = (text, go) => element('button', {type: 'button', class: 'link', click: go}, text);

  function definitions(pairs) {
    const list = element('dl', {});
    for (const [name, value] of pairs) {
      if (value === null || value === undefined || value === '') continue;
      list.append(element('dt', {}, name), element('dd', {}, value));
    }
    return list;
  }
  function command(text) {
    const button = element('button', {type: 'button', click: () => {
      navigator.clipboard.writeText(text).then(() => { button.textContent = 'copied'; },
                                               () => { button.textContent = 'select and copy'; });
    }}, 'copy');
    return element('div', {class: 'command'}, element('pre', {}, text), button);
  }
  function table(heads, rows) {
    return element('div', {class: 'scroll'}, element('table', {class: 'list'},
      element('thead', {}, element('tr', {}, heads.map((head) => element('th', {scope: 'col'}, head)))),
      element('tbody', {}, rows.map((row) => element('tr', {}, row.map((cell) => element('td', {}, cell)))))));
  }

  // ---- The verdict ----
  function draw_header() {
    document.title = `qdiff: ${report.verdict}`;
    const badge = byId('badge');
    badge.textContent = report.verdict.toUpperCase();
    badge.classList.add(report.verdict);
    byId('sentence').textContent = data.sentence;
    if (data.causes.length === 0) byId('map').querySelector('h2').textContent = 'Every tensor';
    byId('subject').textContent = data.subject;
    if (report.acceptance !== null) {
      byId('acceptance').replaceChildren(element('strong', {}, report.acceptance.verdict),
        element('ul', {}, data.acceptance.map((line) => element('li', {}, line))));
      byId('acceptance').hidden = false;
    }
    for (const section of document.querySelectorAll('main section')) {
      if (section.hidden) continue;
      byId('sections').append(element('a', {href: `#${section.id}`}, section.querySelector('h2').textContent));
    }
    show('footer', element('p', {}, 'The whole again: ', element('code', {}, report.command)),
         element('p', {}, 'Figures of every judged tensor: tensors.jsonl; everything as data: report.json.'));
  }

  // ---- Causes ----
  function draw_causes() {
    if (data.causes.length === 0) {
      show('causes-body', element('p', {}, report.verdict === 'match' ? 'Nothing diverged.' : 'No tensor was found wrong.'));
      return;
    }
    const rows = data.causes.map((cause) => [
      element('div', {}, element('strong', {}, cause.cause), cause.meaning ? element('div', {class: 'quiet'}, cause.meaning) : null),
      element('code', {}, cause.tensor), cause.where, String(cause.count),
      link(cause.worst, () => open_finding(cause.worst_finding)),
      element('button', {type: 'button', click: () => open_finding(cause.first)}, cause.count === 1 ? 'show' : 'show the first'),
    ]);
    show('causes-body', table(['cause', 'tensor', 'where', 'tensors', 'worst error', ''], rows),
         data.to_record ? element('p', {}, element('strong', {}, 'Record next: '), `${data.to_record}.`) : null,
         data.declaration ? element('p', {}, element('strong', {}, 'Declare in the manifest, if it is meant so: '), element('code', {}, data.declaration)) : null);
  }

  // ---- The map ----
  const grid = data.grid;
  const at = {run: 0, step: 0, row: -1, column: -1};

  function decode(text) {
    const bytes = atob(text);
    const values = new Uint16Array(bytes.length / 2);
    for (let i = 0; i < values.length; ++i) values[i] = bytes.charCodeAt(2 * i) | (bytes.charCodeAt(2 * i + 1) << 8);
    return values;
  }
  const decoded = new Map();
  function cells_of(run, step) {
    const key = `${run}:${step}`;
    if (!decoded.has(key)) decoded.set(key, decode(grid.runs[run].steps[step].cells));
    return decoded.get(key);
  }
  // 0: not judged. 1: wrong by a gate (shape, NaN, mask …). 2: unsure. Else the ratio to the bound, 1/1024 octave a step.
  const kWrongByGate = 1, kFirstRatio = 16, kOffset = 32768, kPerOctave = 1024;
  const ratio_of = (code) => code < kFirstRatio ? null : 2 ** ((code - kOffset) / kPerOctave);

  function look(code) {
    if (code === 0) return {style: 'absent', mark: '', text: 'not recorded or not judged'};
    if (code === kWrongByGate) return {style: 'w3', mark: '×', text: 'wrong: shape, NaN, mask or exact values'};
    const ratio = ratio_of(code);
    const text = `${figure(ratio)} times its bound`;
    if (ratio <= 1) return {style: ratio <= 0.25 ? 'r0' : ratio <= 0.5 ? 'r1' : ratio <= 0.75 ? 'r2' : 'r3', mark: '', text};
    if (ratio <= data.diverged_ratio) return {style: 'w0', mark: '?', text: `${text}: too little to be sure`};
    return {style: ratio <= 10 ? 'w1' : ratio <= 1000 ? 'w2' : 'w3', mark: '×', text};
  }

  function column_name(column) { return grid.layers[column] === null ? '' : String(grid.layers[column]); }
  function tensor_name(row, column) {
    const layer = grid.layers[column];
    return layer === null ? grid.tensors[row].name : `model.layers.${layer}.${grid.tensors[row].name}`;
  }

  function draw_grid() {
    const run = grid.runs[at.run];
    if (!run) { byId('map').hidden = true; return; }
    const cells = cells_of(at.run, at.step);
    const wanted = byId('filter').value.trim().toLowerCase();
    const wrong_only = byId('wrong-only').checked;
    const columns = grid.layers.length;
    const many = columns > 40;  // more than fit beside the tensor: it is drawn below, and each fifth layer has its number
    const head = element('tr', {}, element('th', {scope: 'col'}, 'layer'), grid.layers.map((layer, column) =>
      element('th', {scope: 'col', title: layer === null ? 'outside the layers' : `layer ${layer}`}, layer === null ? '' : many && layer % 5 !== 0 ? '' : column_name(column))));
    const body = element('tbody', {});
    grid.tensors.forEach((tensor, row) => {
      if (wanted && !tensor.name.toLowerCase().includes(wanted)) return;
      const codes = Array.from({length: columns}, (_, column) => cells[row * columns + column]);
      if (wrong_only && !codes.some((code) => look(code).mark === '×')) return;
      const line = element('tr', {}, element('th', {scope: 'row'}, tensor.name));
      codes.forEach((code, column) => {
        const applies = tensor.layer === (grid.layers[column] !== null);
        if (!applies) { line.append(element('td', {})); return; }
        const {style, mark, text} = look(code);
        const classes = [style, code === 0 ? '' : 'judged', mark === '×' ? 'wrong' : ''].join(' ').trim();
        const name = tensor_name(row, column);
        const cell = element('td', {class: classes, title: `${name}: ${text}`, 'aria-label': `${name}: ${text}`, tabindex: -1,
                                    'data-row': row, 'data-column': column}, mark);
        if (row === at.row && column === at.column) { cell.classList.add('chosen'); cell.tabIndex = 0; }
        line.append(cell);
      });
      body.append(line);
    });
    const table = byId('grid');
    table.classList.toggle('wide', columns <= 12);
    table.classList.toggle('many', many);
    table.closest('.split').classList.toggle('many', many);
    table.replaceChildren(element('thead', {}, head), body);
    if (!table.querySelector('[tabindex="0"]')) {
      const first = table.querySelector('td[data-row]');
      if (first) first.tabIndex = 0;
    }
    byId('step-text').textContent = run.steps[at.step].name;
  }

  function draw_legend() {
    const items = [['r0', '', 'up to ¼ of the bound'], ['r1', '', '½'], ['r2', '', '¾'], ['r3', '', '1'], ['w0', '?', 'unsure'],
                   ['w1', '×', 'wrong: up to 10'], ['w2', '×', '1000'], ['w3', '×', 'more, or NaN'], ['absent', '', 'not recorded or not judged']];
    show('legend', items.map(([style, mark, text]) => element('span', {}, element('i', {class: style}, mark), text)));
  }

  function choose_run(run, step) {
    at.run = run;
    const steps = grid.runs[run].steps;
    at.step = Math.min(step, steps.length - 1);
    const slider = byId('step');
    slider.max = steps.length - 1;
    slider.value = at.step;
    slider.disabled = steps.length < 2;
  }

  function fill_selectors() {
    const cases = [...new Set(grid.runs.map((run) => run.case))];
    show('case', cases.map((name) => element('option', {value: name}, name)));
    const modes_of = (name) => grid.runs.filter((run) => run.case === name).map((run) => run.mode);
    const fill_modes = () => show('mode', modes_of(byId('case').value).map((mode) => element('option', {value: mode}, mode)));
    const apply = () => {
      const index = grid.runs.findIndex((run) => run.case === byId('case').value && run.mode === byId('mode').value);
      choose_run(Math.max(0, index), 0);
      draw_grid();
    };
    byId('case').addEventListener('change', () => { fill_modes(); apply(); });
    byId('mode').addEventListener('change', apply);
    byId('step').addEventListener('input', () => { at.step = Number(byId('step').value); draw_grid(); });
    byId('filter').addEventListener('input', draw_grid);
    byId('wrong-only').addEventListener('change', draw_grid);
    fill_modes();
  }
  function sync_selectors() {
    const run = grid.runs[at.run];
    byId('case').value = run.case;
    byId('case').dispatchEvent(new Event('change'));
    byId('mode').value = run.mode;
  }

  function choose_cell(row, column, focus) {
    at.row = row;
    at.column = column;
    for (const cell of byId('grid').querySelectorAll('.chosen, [tabindex="0"]')) { cell.classList.remove('chosen'); cell.tabIndex = -1; }
    const cell = byId('grid').querySelector(`td[data-row="${row}"][data-column="${column}"]`);
    if (!cell) return;
    cell.classList.add('chosen');
    cell.tabIndex = 0;
    if (focus) cell.focus();
    draw_detail();
  }

  // The next cell that is a tensor: a row has none in the columns where its tensor does not exist.
  function beside(cell, direction) {
    const cells = [...cell.parentElement.cells];
    const behind = direction > 0 ? cells.slice(cell.cellIndex + 1) : cells.slice(0, cell.cellIndex).reverse();
    return behind.find((item) => item.dataset.row !== undefined);
  }
  function above_or_below(cell, direction) {
    const next = direction > 0 ? 'nextElementSibling' : 'previousElementSibling';
    const distance = (item) => Math.abs(item.cellIndex - cell.cellIndex);
    for (let row = cell.parentElement[next]; row; row = row[next]) {
      const cells = [...row.querySelectorAll('td[data-row]')];
      if (cells.length > 0) return cells.reduce((best, item) => distance(item) < distance(best) ? item : best);
    }
    return undefined;
  }

  byId('grid').addEventListener('click', (event) => {
    const cell = event.target.closest('td[data-row]');
    if (cell) choose_cell(Number(cell.dataset.row), Number(cell.dataset.column), true);
  });
  byId('grid').addEventListener('keydown', (event) => {
    const cell = event.target.closest('td[data-row]');
    if (!cell) return;
    const neighbours = {ArrowLeft: () => beside(cell, -1), ArrowRight: () => beside(cell, 1),
                        ArrowUp: () => above_or_below(cell, -1), ArrowDown: () => above_or_below(cell, 1)};
    if (event.key === 'Enter' || event.key === ' ') {
      choose_cell(Number(cell.dataset.row), Number(cell.dataset.column), true);
      event.preventDefault();
    } else if (neighbours[event.key]) {
      const next = neighbours[event.key]();
      if (next) { cell.tabIndex = -1; next.tabIndex = 0; next.focus(); }
      event.preventDefault();
    }
  });

  // ---- One tensor ----
  // `place` says in words what a bar stands for.
  function bars(values, title, place, ends) {
    const width = 400, height = 90, base = 70;
    const finite = values.filter((value) => typeof value === 'number' && Number.isFinite(value));
    const top = Math.max(1e-300, ...finite);
    const drawing = element('svg', {viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': title});
    const step = width / values.length;
    values.forEach((value, i) => {
      const size = typeof value === 'number' ? Math.max(0, Math.min(1, value / top)) * (base - 6) : base - 6;
      const bar = element('rect', {class: typeof value !== 'number' || value > 2 ? 'bar high' : 'bar', x: i * step, y: base - size,
                                   width: Math.max(0.5, step - (step > 3 ? 1 : 0)), height: size});
      bar.append(element('title', {}, `${place(i)}: ${figure(value)}`));
      drawing.append(bar);
    });
    drawing.append(element('line', {class: 'axis', x1: 0, x2: width, y1: base, y2: base}),
                   element('text', {x: 0, y: height - 6}, ends[0]),
                   element('text', {x: width, y: height - 6, 'text-anchor': 'end'}, ends[1]));
    return drawing;
  }
  function bars_by(axis) {
    const each = axis.indices_a_bar;  // neighbouring ones
    const place = (i) => each === 1 ? `${axis.axis} ${i}` : `${axis.axis} ${i * each} to ${(i + 1) * each - 1}`;
    return bars(axis.rms, `error by ${axis.axis}`, place, ['0', String((axis.rms.length - 1) * each)]);
  }
  // Behind the first bar, which holds all below, each reaches to twice where the one before it does.
  function histogram(shares) {
    const end = (i) => i < 3 ? `1/${2 ** (3 - i)}` : String(2 ** (i - 3));
    const last = shares.length - 1;
    const place = (i) => i === 0 ? `below ${end(0)}` : i === last ? `${end(i - 1)} and more` : `${end(i - 1)} to ${end(i)}`;
    return bars(shares, 'histogram of the errors', place, [place(0), place(last)]);
  }

  function finding_at(name) {
    const run = grid.runs[at.run];
    const step = run.steps[at.step].index;
    return findings.findIndex((item) => item.case === run.case && item.mode === run.mode && item.step === step && item.tensor === name);
  }

  function draw_detail() {
    const name = tensor_name(at.row, at.column);
    const code = cells_of(at.run, at.step)[at.row * grid.layers.length + at.column];
    const run = grid.runs[at.run];
    const parts = [element('h3', {}, element('code', {}, name)),
                   element('p', {class: 'quiet'}, `case ${run.case}, ${run.mode}, step ${run.steps[at.step].name}`)];
    const index = finding_at(name);
    if (index < 0) {
      const {mark, text} = look(code);
      const ratio = ratio_of(code);
      parts.push(element('p', {}, ratio !== null && mark === '' ? `The error is ${text}, which the rounding of a correct engine explains.` : `${text}.`));
      const closest = report.closest_to_bound;
      if (closest !== null && closest.case === run.case && closest.mode === run.mode && closest.step === run.steps[at.step].index && closest.tensor === name) {
        parts.push(element('p', {class: 'quiet'}, 'Of all tensors that agree, this one comes closest to its bound.'));
      }
      show('detail', parts);
      return;
    }
    const finding = findings[index];
    parts.push(definitions([
      ['kind', finding.kind], ['error', finding.reason], ['pattern', finding.pattern], ['cause', finding.cause],
      ['worst element', finding.index.length ? `[${finding.index.join(', ')}]: ${finding.actual} where ${finding.expected} is expected` : ''],
      ['span', finding.start === finding.tensor ? '' : `${finding.start} to ${finding.tensor}`],
    ]), command(finding.command));
    const profile = data.profiles[index];
    if (profile) {
      parts.push(element('p', {class: 'quiet'}, 'Root mean square error over the expected rounding, which makes 1 of it:'));
      const chart = (title, ...content) => element('div', {}, element('h3', {}, title), content);
      parts.push(element('div', {class: 'charts'},
        profile.axes.map((axis) => chart(`by ${axis.axis}`, bars_by(axis))),
        chart('how many elements err how much', histogram(profile.histogram), element('p', {class: 'quiet'}, data.histogram_note))));
      parts.push(element('h3', {}, 'worst elements'), table(['index', 'actual', 'expected', 'error / rounding'],
        profile.worst.map((item) => [`[${item.index.join(', ')}]`, String(item.actual), String(item.expected), figure(item.error)])));
    }
    show('detail', parts);
  }

  // Of a tensor's case, mode, step and layer, the map with its cell chosen.
  function open_tensor(place, row, goes_there) {
    const run = grid.runs.findIndex((item) => item.case === place.case && item.mode === place.mode);
    if (run < 0) return;
    at.run = run;
    sync_selectors();
    const step = grid.runs[run].steps.findIndex((item) => item.index === place.step);
    choose_run(run, Math.max(0, step));
    byId('filter').value = '';
    byId('wrong-only').checked = false;
    draw_grid();
    choose_cell(row, grid.layers.indexOf(place.layer), goes_there);
    if (goes_there) byId('map').scrollIntoView();
  }

  // `goes_there`: as asked for by a person. A page that is opened moves nothing, for it may stand in another, as in a notebook.
  function open_finding(index, goes_there = true) { open_tensor(findings[index], findings[index].row, goes_there); }

  // Where nothing is wrong, what comes closest to being so is what there is to see.
  function open_closest() {
    const closest = report.closest_to_bound;
    if (closest === null) return;
    const [, layer, name] = /^(?:model\.layers\.(\d+)\.)?(.*)$/.exec(closest.tensor);
    const row = grid.tensors.findIndex((item) => item.name === name);
    if (row >= 0) open_tensor({...closest, layer: layer === undefined ? null : Number(layer)}, row, false);
  }

  // ---- Text ----
  function curve(values) {
    const width = 600, height = 180, left = 46, base = 150;
    const logs = values.map((value) => typeof value === 'number' && value > 0 ? Math.log10(value) : null);
    const known = logs.filter((value) => value !== null);
    if (known.length === 0) return null;
    const low = Math.floor(Math.min(...known)), high = Math.max(low + 1, Math.ceil(Math.max(...known)));
    const x = (i) => left + (values.length < 2 ? 0 : i * (width - left - 6) / (values.length - 1));
    const y = (value) => base - (value - low) * (base - 10) / (high - low);
    const drawing = element('svg', {viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': 'relative error of the residual stream by layer'});
    for (let power = low; power <= high; ++power) {
      drawing.append(element('line', {class: 'axis', x1: left, x2: width, y1: y(power), y2: y(power)}),
                     element('text', {x: left - 6, y: y(power) + 4, 'text-anchor': 'end'}, `1e${power}`));
    }
    let path = '';
    logs.forEach((value, i) => { if (value !== null) path += `${path && logs[i - 1] !== null ? 'L' : 'M'}${x(i)} ${y(value)}`; });
    drawing.append(element('path', {class: 'curve', d: path}),
                   element('text', {x: left, y: height - 8}, 'layer 0'),
                   element('text', {x: width, y: height - 8, 'text-anchor': 'end'}, `layer ${values.length - 1}`));
    return drawing;
  }

  function common_start(a, b) {
    let i = 0;
    while (i < a.length && i < b.length && a[i] === b[i]) ++i;
    return i;
  }

  function draw_text() {
    const kShown = 2;
    const runs = report.free_runs.map(draw_free_run);
    const elsewhere = data.elsewhere.map((line) => element('p', {}, `${line[0].toUpperCase()}${line.slice(1)}.`));
    const parts = [...elsewhere, ...runs.slice(0, kShown)];
    if (runs.length > kShown) parts.push(element('details', {}, element('summary', {}, counted(runs.length - kShown, 'more case')), runs.slice(kShown)));
    byId('text').hidden = parts.length === 0;
    show('text-body', parts);
  }

  function draw_free_run(run) {
    const parts = [];
    parts.push(element('h3', {}, `case ${run.case}`));
    parts.push(element('p', {}, `The same next token as the reference at ${run.same_top_token} of ${counted(run.tokens_compared, 'position')}; relative error of the logits ${figure(run.logits_relative_rms_error)}.`));
    const expected = run.expected_written ?? run.expected_text, actual = run.actual_written ?? run.actual_text;
    if (expected !== null && actual !== null && expected !== undefined && actual !== undefined) {
      const same = common_start(expected, actual);
      const text = (whole) => element('pre', {}, whole.slice(0, same), same < whole.length ? element('mark', {}, whole.slice(same)) : null);
      parts.push(element('div', {class: 'texts'}, element('div', {}, element('strong', {}, 'reference'), text(expected)),
                         element('div', {}, element('strong', {}, 'engine'), text(actual))));
    }
    const drawing = curve(run.residual_relative_rms_error);
    if (drawing) parts.push(element('p', {class: 'quiet keep'}, 'How the error of the residual stream grows over the layers when both run freely:'), drawing);
    return element('div', {}, parts);
  }

  // ---- Hypotheses and coverage ----
  function draw_hypotheses() {
    const rows = report.hypotheses.map((item) => {
      const more = [];
      if (item.evidence.length) more.push(element('div', {}, item.evidence.map((text) => element('p', {}, text))));
      if (item.blind_variants.length) {
        more.push(element('p', {}, 'Not shown by these inputs:'),
                  element('ul', {}, item.blind_variants.map((blind) => element('li', {}, element('code', {}, blind.variant), ` ${blind.why}`))));
      }
      if (item.exercised_variants.length) more.push(element('p', {class: 'quiet'}, `Would have shown: ${item.exercised_variants.join(', ')}`));
      return [element('strong', {}, item.id), item.title, item.verdict.replace('_', ' '), item.variant ? element('code', {}, item.variant) : '',
              more.length ? element('details', {}, element('summary', {}, 'evidence'), more) : ''];
    });
    show('hypotheses-body', table(['', 'hypothesis', 'verdict', 'bug', ''], rows));
  }

  function draw_coverage() {
    const coverage = report.coverage;
    const parts = [definitions([
      ['compared', counted(coverage.tensors_compared, 'tensor')],
      ['cases', report.cases.map((item) => `${item.id} ${item.verdict}`).join(', ')],
      ['not recorded', coverage.tensors_missing.join(', ')], ['blind', coverage.blind.join(', ')],
      ['closest to a bound', data.closest],
      ['notes', report.notes.join(' · ')],
    ])];
    if (coverage.not_compared.length) {
      parts.push(element('details', {}, element('summary', {}, `${counted(coverage.not_compared.length, 'tensor')} could not be judged`),
        table(['case', 'step', 'tensor', 'because'], coverage.not_compared.slice(0, 500).map((item) => [item.case, String(item.step), element('code', {}, item.tensor), item.reason]))));
    }
    show('coverage-body', parts);
  }

  // On paper the map keeps its colours, and there is nothing to open.
  document.documentElement.style.printColorAdjust = 'exact';
  let opened = [];
  addEventListener('beforeprint', () => {
    opened = [...document.querySelectorAll('details:not([open])')];
    for (const details of opened) details.open = true;
  });
  addEventListener('afterprint', () => { for (const details of opened) details.open = false; });

  draw_causes();
  draw_legend();
  if (grid.runs.length === 0) byId('map').hidden = true;
  else { fill_selectors(); choose_run(0, 0); draw_grid(); }
  draw_text();
  draw_hypotheses();
  draw_coverage();
  draw_header();
  if (grid.runs.length > 0 && data.first !== null) open_finding(data.first, false);
  else if (grid.runs.length > 0) open_closest();
})();
