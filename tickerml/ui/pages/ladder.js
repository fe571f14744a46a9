// The order book as one drawing: asks above, bids below, our own orders marked at their price.
const ROW = 17, MIDDLE = 34, PAD = 12;
const FONT = "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace";
const BUY = "#0ecb81", SELL = "#f6465d", OWN = "#f59e0b";

export default {
  template: `<canvas class="ladder" role="img" aria-label="Order book"></canvas>`,
  mounted() {
    this.sizes = new ResizeObserver(() => this.draw());
    this.sizes.observe(this.$el);
    this.themes = new MutationObserver(() => this.draw());
    this.themes.observe(document.body, { attributeFilter: ["class"] });
  },
  unmounted() {
    this.sizes.disconnect();
    this.themes.disconnect();
  },
  methods: {
    show(book) {
      this.book = book;
      this.$el.setAttribute("aria-label", `Order book, mid ${book.mid || "unknown"}, spread ${book.spread || "unknown"}`);
      requestAnimationFrame(() => this.draw());
    },
    draw() {
      const canvas = this.$el, scale = window.devicePixelRatio || 1;
      const width = canvas.clientWidth, height = canvas.clientHeight;
      if (!width || !this.book) return;
      canvas.width = width * scale;
      canvas.height = height * scale;
      const pen = canvas.getContext("2d"), dark = document.body.classList.contains("body--dark");
      pen.setTransform(scale, 0, 0, scale, 0, 0);
      pen.textBaseline = "middle";
      const ink = dark ? "#cbd5e1" : "#334155", { bids, asks, note } = this.book;
      const count = Math.floor((height - MIDDLE) / 2 / ROW), middle = height / 2;
      const write = (text, x, y, align, colour, font = `11px ${FONT}`) => {
        [pen.font, pen.textAlign, pen.fillStyle] = [font, align, colour];
        pen.fillText(text, x, y);
      };
      const line = (top, [price, quantity, total, fraction, own], colour) => {
        const bar = fraction * width, y = top + ROW / 2;
        pen.fillStyle = colour + (dark ? "33" : "2b");
        pen.fillRect(width - bar, top, bar, ROW - 1);
        if (own) {
          pen.fillStyle = OWN + "2e";
          pen.fillRect(0, top, width, ROW - 1);
          pen.fillStyle = OWN;
          pen.fillRect(0, top, 3, ROW - 1);
        }
        write(price, PAD, y, "left", colour);
        const free = width * 0.66 - pen.measureText(price + quantity).width - PAD - 16;
        const marks = own ? [`◆ ${own}`, "◆"] : [];
        const mark = marks.find((text) => pen.measureText(text).width <= free);
        if (mark) write(mark, PAD + pen.measureText(price).width + 8, y, "left", OWN);
        write(quantity, width * 0.66, y, "right", ink);
        write(total, width - PAD, y, "right", ink);
      };
      asks.slice(0, count).forEach((row, i) => line(middle - MIDDLE / 2 - (i + 1) * ROW, row, SELL));
      bids.slice(0, count).forEach((row, i) => line(middle + MIDDLE / 2 + i * ROW, row, BUY));
      if (this.book.mid) {
        write(this.book.mid, PAD, middle, "left", dark ? "#f1f5f9" : "#0f172a", `600 15px ${FONT}`);
        write(note || `spread ${this.book.spread}  imb ${this.book.imbalance}`, width - PAD, middle, "right", note ? OWN : "#8b98a9");
      } else write(note || "empty", width / 2, middle, "center", "#8b98a9", `12px ${FONT}`);
    },
  },
};
