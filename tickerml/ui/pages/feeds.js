// The feeds, a card each; the one that is chosen is emitted. Vue escapes every text.
export default {
  template: `
    <div class="feeds" role="group" aria-label="Feeds">
      <button v-for="feed in feeds" :key="feed.exchange" type="button" class="feed" :aria-pressed="String(feed.exchange === chosen)"
        @click="$emit('choose', feed.exchange)">
        <div class="feed-head"><span class="dot" :class="feed.tone"></span>{{ feed.exchange }}<span class="num">{{ feed.state }}</span></div>
        <dl class="num"><div v-for="[name, text, tone] in feed.figures" :key="name"><dt>{{ name }}</dt><dd :class="tone">{{ text }}</dd></div></dl>
        <div v-for="note in feed.notes" :key="note" class="note">{{ note }}</div>
      </button>
      <p v-if="!feeds.length" class="quiet">No exchange has said anything yet.</p>
    </div>`,
  emits: ["choose"],
  data: () => ({ feeds: [], chosen: "" }),
  methods: {
    show(feeds, chosen) {
      Object.assign(this, { feeds, chosen });
    },
  },
};
