// For each symbol, what a purchase in the row and a sale in the column would bring. Vue escapes every text.
export default {
  template: `
    <div class="spreads">
      <div v-for="table in tables" :key="table.symbol" class="spread-pane" tabindex="0" role="region" :aria-label="'Spreads of ' + table.symbol"><table class="spread num">
        <caption>{{ table.symbol }}</caption>
        <thead><tr><th></th><th scope="col">bid</th><th scope="col">ask</th>
          <th v-for="row in table.rows" :key="row.exchange" scope="col">{{ table.rows.length > 1 ? "→ " + row.exchange : "spread" }}</th></tr></thead>
        <tbody><tr v-for="row in table.rows" :key="row.exchange" :class="{ bad: row.note }">
          <th scope="row">{{ row.exchange }}<span class="note">{{ row.note }}</span></th>
          <td :class="{ bad: row.note }">{{ row.bid }}</td><td :class="{ bad: row.note }">{{ row.ask }}</td>
          <td v-for="([text, tone, meaning], i) in row.cells" :key="i" :class="tone" :title="meaning">{{ text }}</td>
        </tr></tbody>
      </table></div>
    </div>`,
  data: () => ({ tables: [] }),
  methods: {
    show(tables) {
      this.tables = tables;
    },
  },
};
