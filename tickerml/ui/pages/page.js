// What a page keeps in the browser: the points of its charts, and when it last heard from the console.
window.tickerml = {
  points: {},
  sessions: [],
  heardAt: Date.now(),

  // Merge [time, ...] points into a chart: a known time is replaced, a later one added.
  merge(id, kind, points, limit, isReset, digits) {
    const chart = getElement(id)?.chart;
    if (!chart) return setTimeout(() => this.merge(id, kind, points, limit, isReset, digits), 50);
    const kept = isReset ? [] : this.points[id] || [];
    for (const point of points) {
      if (kept.length && point[0] <= kept.at(-1)[0]) kept[kept.length - 1] = point;
      else kept.push(point);
    }
    if (kept.length > limit) kept.splice(0, kept.length - limit);
    this.points[id] = kept;
    chart.setOption(this[kind](kept, digits));
  },

  last(value, digits, colour) {
    const formatter = value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
    return { yAxis: value, lineStyle: { color: colour }, label: { backgroundColor: colour, formatter } };
  },

  candles(kept, digits) {
    const time = (t) => new Date(t * 1000).toISOString().slice(11, 19);
    const last = kept.at(-1), up = "#0ecb81", down = "#f6465d";
    const mark = last ? [this.last(last[2], digits, last[2] < last[1] ? down : up)] : [];
    return {
      xAxis: [{ data: kept.map((p) => time(p[0])) }, { data: kept.map((p) => p[0]) }],
      series: [
        { data: kept.map((p) => p.slice(1, 5)), markLine: { data: mark } },
        { data: kept.map((p) => ({ value: p[5], itemStyle: { color: (p[2] < p[1] ? down : up) + "66" } })) },
        { data: kept.map((p) => p[6] ?? "-") },
        { data: kept.map((p) => p[7] ?? "-") },
      ],
    };
  },

  curve(kept, digits) {
    const data = kept.map(([t, value]) => [t * 1000, value]);
    const starts = this.sessions.map((t) => ({ xAxis: t * 1000, label: { formatter: "restart", color: "#8b98a9", backgroundColor: "transparent" }, lineStyle: { color: "#8b98a9" } }));
    return { series: [{ data, markLine: { data: data.length ? [...starts, this.last(data.at(-1)[1], digits, "#4c8dff")] : [] } }] };
  },

  // Called with every frame: doubt is why the console itself distrusts what it shows.
  hear(doubt) {
    this.heardAt = Date.now();
    this.show(doubt);
  },

  show(doubt) {
    document.body.classList.toggle("doubtful", Boolean(doubt));
    const banner = document.querySelector(".banner");
    if (banner && banner.textContent !== doubt) banner.textContent = doubt;
  },
};

setInterval(() => {
  const silence = Math.round((Date.now() - tickerml.heardAt) / 1000);
  if (silence > 5) tickerml.show(`The console has not answered for ${silence} s: everything below is old.`);
}, 1000);

// How much of the window the head of the page takes, for what is to stay below it.
(function watchHead() {
  const head = document.querySelector(".head");
  if (!head) return setTimeout(watchHead, 50);
  const tell = () => document.documentElement.style.setProperty("--head", `${head.offsetHeight}px`);
  new ResizeObserver(tell).observe(head);
})();
