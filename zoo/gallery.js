'use strict';

const find = (id) => document.getElementById(id);
const form = find('the-filters');
const main = find('the-networks');
const cards = [...document.querySelectorAll('article')];
const rows = new Map(cards.map((card, i) => [card, find('the-list').children[i]]));
const texts = new Map(cards.map((card) => {
  const copy = card.cloneNode(true);
  copy.querySelectorAll('pre').forEach((code) => code.remove());
  return [card, copy.textContent.toLowerCase()];
}));

// ---- filters and order

function keep(card) {
  const wanted = (name) => form.elements[name].value;
  const words = wanted('text').toLowerCase().split(/\s+/).filter(Boolean);
  return words.every((word) => texts.get(card).includes(word))
    && ['family', 'kind'].every((name) => !wanted(name) || wanted(name) === card.dataset[name])
    && (!wanted('weights') || wanted('weights').split(' ').includes(card.dataset.weights));
}

function order() {
  const [, key, down] = form.elements.sort.value.match(/^(\w*)(-?)$/);
  if (!key) return cards;
  const value = (card) => card.dataset[key] === '' ? Infinity : Number(card.dataset[key]) * (down ? -1 : 1);
  return [...cards].sort((a, b) => (value(a) === value(b) ? 0 : value(a) < value(b) ? -1 : 1));
}

function update() {
  let count = 0;
  for (const card of order()) {
    const shown = keep(card);
    count += shown;
    card.hidden = rows.get(card).hidden = !shown;
    main.append(card);
    find('the-list').append(rows.get(card));
  }
  find('the-gap').hidden = count > 0;
  find('the-count').textContent = `${count} of ${cards.length} networks`;
}

form.addEventListener('input', update);
form.addEventListener('submit', (event) => event.preventDefault());
form.addEventListener('reset', () => setTimeout(update));
form.hidden = false;
update(); // a browser may have kept what was chosen before

window.addEventListener('hashchange', () => {
  const card = find(location.hash.slice(1));
  if (cards.includes(card) && card.hidden) {
    form.reset();
    setTimeout(() => card.scrollIntoView());
  }
});

// ---- theme

const system = matchMedia('(prefers-color-scheme: dark)');
const root = document.documentElement;
const isDark = () => (root.dataset.theme ? root.dataset.theme === 'dark' : system.matches);

function setTheme(theme) {
  if (theme) root.dataset.theme = theme;
  else delete root.dataset.theme;
  find('the-theme').textContent = isDark() ? 'Light colours' : 'Dark colours';
}

function remember(theme) {
  try { // a browser may keep nothing for a file
    if (theme) localStorage.setItem('searchzoo-theme', theme);
    else localStorage.removeItem('searchzoo-theme');
  } catch { /* then the choice lasts as long as the page */ }
}

function recall() {
  try {
    const theme = localStorage.getItem('searchzoo-theme');
    return ['light', 'dark'].includes(theme) ? theme : null;
  } catch {
    return null;
  }
}

find('the-theme').addEventListener('click', () => {
  const dark = !isDark();
  const theme = dark === system.matches ? null : dark ? 'dark' : 'light';
  setTheme(theme);
  remember(theme);
});
system.addEventListener('change', () => setTheme(root.dataset.theme));
setTheme(recall());
find('the-theme').hidden = false;

// ---- code to copy

async function copy(code) {
  try {
    await navigator.clipboard.writeText(code.textContent);
    return true;
  } catch { // not allowed, or a page that was not opened safely
    getSelection().selectAllChildren(code);
    return document.execCommand('copy');
  }
}

for (const code of document.querySelectorAll('pre')) {
  const box = document.createElement('div');
  const button = document.createElement('button');
  box.className = 'code';
  button.className = 'copy';
  button.type = 'button';
  button.textContent = 'Copy';
  button.setAttribute('aria-live', 'polite');
  code.before(box);
  box.append(code, button);
  button.addEventListener('click', async () => {
    button.textContent = (await copy(code)) ? 'Copied' : 'Press Ctrl+C';
    setTimeout(() => { button.textContent = 'Copy'; }, 2000);
  });
}

// ---- small screens, and paper

if (matchMedia('(max-width: 60rem)').matches) document.querySelector('.index').open = false;

let closed = [];
window.addEventListener('beforeprint', () => {
  closed = [...document.querySelectorAll('article details:not([open])')];
  closed.forEach((details) => { details.open = true; });
});
window.addEventListener('afterprint', () => closed.forEach((details) => { details.open = false; }));
