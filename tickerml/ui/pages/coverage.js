// A calendar: a row for each stream, a cell for each day; what is pointed at or chosen is told below. Vue escapes every text.
export default {
  template: `
    <div class="coverage">
      <div class="coverage-pane" tabindex="0" role="region" aria-label="Coverage"><table v-if="rows.length">
        <thead><tr><th scope="col">Stream</th><th scope="col">Rows</th>
          <th v-for="(day, i) in days" :key="day" scope="col" class="day"><span v-if="i === 0 || day.endsWith('-01') || day.endsWith('-15') || days.length < 15">{{ day.slice(5) }}</span></th></tr></thead>
        <tbody><tr v-for="row in rows" :key="row.kind + row.name">
          <th scope="row">{{ row.name }} <span class="quiet">{{ row.kind }}</span></th><td class="detail num">{{ row.detail }}</td>
          <td v-for="(cell, i) in row.cells" :key="days[i]" class="day"><button type="button" :class="['l' + cell.level, { doubtful: cell.is_doubtful }]"
            :title="cell.hint.join('\\n')" :aria-label="cell.hint.join('; ')" @click="hint = cell.hint" @mouseenter="hint = cell.hint" @focus="hint = cell.hint"></button></td>
        </tr></tbody>
      </table></div>
      <p class="legend quiet"><template v-if="rows.length"><i class="l0"></i> nothing <i class="l1"></i><i class="l2"></i><i class="l3"></i> part of the day
        <i class="l4"></i> whole <i class="l4 doubtful"></i> with times in doubt</template></p>
      <ul v-if="hint.length" class="hint num" aria-live="polite"><li v-for="line in hint" :key="line">{{ line }}</li></ul>
    </div>`,
  data: () => ({ days: [], rows: [], hint: [] }),
  methods: {
    show(days, rows) {
      Object.assign(this, { days, rows, hint: [] });
    },
  },
};
