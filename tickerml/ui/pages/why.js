// The story of one order: what `tickerml why` tells, step by step. Vue escapes every text.
export default {
  template: `
    <div class="why">
      <p v-if="!story" class="quiet">{{ message }}</p>
      <template v-else>
        <p class="outcome">{{ story.outcome }}</p>
        <ol>
          <li v-for="step in story.steps" :class="step.stage">
            <span class="stage">{{ step.stage }}</span>
            <span class="num quiet">{{ step.clock }} · seq {{ step.seq }} · {{ step.who }}</span>
            <span class="text">{{ step.text }}</span>
          </li>
        </ol>
        <p v-for="note in story.notes" class="note">{{ note }}</p>
        <template v-if="story.replay"><p class="quiet">The command that comes to this instant:</p><code>{{ story.replay }}</code></template>
      </template>
    </div>`,
  data: () => ({ story: null, message: "" }),
  methods: {
    wait(message) {
      this.story = null;
      this.message = message;
    },
    show(story) {
      this.story = story;
    },
  },
};
