// A table of orders: the row that is clicked is emitted, and a "bar" cell is a fraction drawn as one. Vue escapes every text.
export default {
  template: `
    <div class="rows" tabindex="0" role="region" :aria-label="label">
      <table v-if="rows.length">
        <thead><tr><th v-for="c in columns" scope="col" :class="c.align">{{ c.label }}</th></tr></thead>
        <tbody>
          <tr v-for="row in rows" :key="row.id" class="order" :class="{ chosen: row.cells[1] === chosen }" @click="$emit('choose', row.cells[1])">
            <td v-for="(c, i) in columns" :data-label="c.label" :class="[c.align, row.tones?.[i]]">
              <div v-if="c.align === 'bar'" class="place" role="meter" :aria-label="c.label" :aria-valuenow="percent(row.cells[i])"
                aria-valuemin="0" aria-valuemax="100"><i :style="{ width: percent(row.cells[i]) + '%' }"></i><b>{{ percent(row.cells[i]) }} %</b></div>
              <button v-else-if="i === 1" type="button" class="name" :aria-label="'Why ' + row.cells[i]">{{ row.cells[i] }}</button>
              <template v-else>{{ row.cells[i] }}</template>
            </td>
          </tr>
        </tbody>
      </table>
      <p v-else class="empty">{{ empty }}</p>
    </div>`,
  props: { columns: Array, label: String, empty: String },
  emits: ["choose"],
  data: () => ({ rows: [], chosen: "" }),
  methods: {
    show(rows, chosen) {
      this.rows = rows;
      this.chosen = chosen;
    },
    percent: (text) => Math.round(100 * Number(text)),
  },
};
