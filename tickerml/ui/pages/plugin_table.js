// Processes and their plugins; what a person does with one is emitted. Vue escapes every text.
export default {
  template: `
    <table class="plugin-table">
      <thead><tr>
        <th scope="col">Plugin</th><th scope="col">State</th><th scope="col">Kind</th><th scope="col">Version</th>
        <th scope="col" class="r">CPU</th><th scope="col" class="r">Memory</th><th scope="col" class="r">Messages/s</th>
        <th scope="col" class="r">Lag</th><th scope="col" class="r">On</th>
      </tr></thead>
      <tbody v-for="group in groups" :key="group.name">
        <tr class="host">
          <th scope="rowgroup"><span class="host-name">{{ group.name }}</span> <span class="quiet">{{ group.detail }}</span></th>
          <td colspan="3" class="host-state">{{ group.state }} <span class="reason">{{ group.reason }}</span></td>
          <td class="r num" data-label="CPU">{{ group.cpu }}</td><td class="r num">{{ group.memory }}</td>
          <td class="r num" data-label="/s">{{ group.messages }}</td><td class="r num" data-label="lag">{{ group.lag }}</td><td></td>
        </tr>
        <tr v-for="row in group.rows" :key="row.id" class="entry" :class="{ chosen: row.id === chosen }" @click="$emit('choose', row.id)">
          <td class="what">
            <button type="button" class="name" :aria-pressed="row.id === chosen">{{ row.id }}</button>
            <div class="plugin-detail">{{ row.summary }}</div>
            <div v-if="row.reason" class="reason" :class="row.tone">{{ row.reason }}</div>
          </td>
          <td class="state"><span class="dot" :class="row.tone"></span>{{ row.state }}</td>
          <td class="kind">{{ row.kind }}</td><td class="num version">{{ row.version }}</td>
          <td class="filler"></td><td class="filler"></td><td class="r num messages">{{ row.messages }}</td><td class="filler"></td>
          <td class="r on"><button type="button" class="switch" role="switch" :aria-label="row.id + ' enabled'"
            :aria-checked="String(row.is_on)" :aria-busy="String(busy.includes(row.id))" :disabled="busy.includes(row.id)"
            @click.stop="$emit('switch', { id: row.id, is_on: !row.is_on })"><span></span></button></td>
        </tr>
      </tbody>
    </table>`,
  emits: ["choose", "switch"],
  data: () => ({ groups: [], chosen: "", busy: [] }),
  methods: {
    show(groups, chosen, busy) {
      Object.assign(this, { groups, chosen, busy });
    },
  },
};
