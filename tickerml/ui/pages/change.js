// How the change of plugins goes that is under way, or how the last one ended. Vue escapes every text.
export default {
  template: `
    <section v-if="change" class="change" :class="tone" role="status" aria-label="Change of plugins">
      <div class="change-head">
        <b>{{ change.reason }}</b>
        <span class="quiet">change {{ change.number }}<template v-if="change.host"> · process {{ change.host }}</template></span>
        <span class="space"></span>
        <span v-if="change.left_s" class="num left">{{ Math.ceil(change.left_s) }} s left</span>
        <button v-if="change.step === 'shadow'" type="button" @click="$emit('settle')">Take over now</button>
        <button v-if="change.step === 'probation'" type="button" @click="$emit('settle')">Make permanent now</button>
        <button v-if="isUnderWay && change.step !== 'rolling back'" type="button" class="danger" @click="$emit('cancel')">{{ change.step === "probation" ? "Roll back" : "Cancel" }}</button>
        <button v-if="!isUnderWay" type="button" aria-label="Hide" @click="$emit('dismiss', change.number)">×</button>
      </div>
      <ol class="steps">
        <li v-for="step in steps" :key="step.name" :class="step.look" :aria-current="step.look === 'now' ? 'step' : null">{{ step.name }}</li>
      </ol>
      <p v-if="change.error" class="why">{{ change.error }}</p>
      <p v-else-if="change.outcome" class="quiet">It is permanent<template v-if="change.gap_ms">; its outputs paused for {{ change.gap_ms }} ms</template>.</p>
      <div v-if="change.shadow" class="shadow">
        <span v-for="[name, label] in counts" :key="name" :class="{ odd: name !== 'equal' && change.shadow[name] }">
          <b class="num">{{ change.shadow[name].toLocaleString("en-US") }}</b> {{ label }}</span>
        <details v-if="change.shadow.examples.length">
          <summary>Examples of what differs</summary>
          <pre v-for="(example, i) in change.shadow.examples" :key="i">{{ example }}</pre>
        </details>
      </div>
    </section>`,
  emits: ["settle", "cancel", "dismiss"],
  data: () => ({
    change: null,
    counts: [["equal", "equal"], ["different", "different"], ["only_old", "only of the old"], ["only_new", "only of the new"]],
  }),
  computed: {
    isUnderWay() {
      return this.change.step !== "ended";
    },
    tone() {
      return this.isUnderWay ? (this.change.error ? "bad" : "busy") : this.change.outcome === "permanent" ? "good" : "bad";
    },
    steps() {
      const { step, failed_at: failedAt, shadow, outcome, error } = this.change;
      const names = ["starting", "standby", "shadow", "barrier", "takeover", "probation"];
      const shown = names.filter((name) => name !== "shadow" || shadow || step === "shadow" || failedAt === "shadow");
      const at = shown.indexOf(error ? failedAt : step);
      const look = (i) => (outcome === "permanent" || i < at ? "done" : i > at ? "" : error ? "failed" : "now");
      const end = error ? (this.isUnderWay ? "rolling back" : "rolled back") : "permanent";
      return [
        ...shown.map((name, i) => ({ name, look: look(i) })),
        { name: end, look: outcome ? (error ? "failed" : "done") : error ? "now" : "" },
      ];
    },
  },
  methods: {
    show(change) {
      this.change = change;
    },
  },
};
