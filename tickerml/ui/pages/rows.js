// A table whose rows arrive as texts: replaced by show(), added to by push(). Vue escapes every text.
export default {
  template: `
    <div class="rows" :class="{ headless: !columns.some((c) => c.label) }" tabindex="0" role="region" :aria-label="label">
      <table>
        <thead><tr><th v-for="c in columns" scope="col" :class="c.align">{{ c.label }}</th></tr></thead>
        <tbody>
          <tr v-for="row in rows" :key="row.id" :class="row.tone">
            <td v-for="(c, i) in columns" :data-label="c.label" :class="[c.align, row.tones?.[i]]">{{ row.cells[i] }}</td>
          </tr>
        </tbody>
      </table>
      <p v-if="!rows.length" class="empty">{{ empty }}</p>
    </div>`,
  props: { columns: Array, label: String, empty: String, limit: Number, follows: Boolean },
  data: () => ({ rows: [] }),
  methods: {
    show(rows) {
      this.rows = rows;
    },
    // Newest first, or at the bottom when it follows like a log; a reader who scrolled away is left alone.
    push(rows) {
      const pane = this.$el, isAtEnd = pane.scrollHeight - pane.scrollTop - pane.clientHeight < 40;
      if (!this.follows) this.rows = [...rows.reverse(), ...this.rows].slice(0, this.limit);
      else {
        this.rows = [...this.rows, ...rows].slice(-this.limit);
        if (isAtEnd) this.toEnd();
      }
    },
    toEnd() {
      this.$nextTick(() => (this.$el.scrollTop = this.$el.scrollHeight));
    },
  },
};
