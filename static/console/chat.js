// The live part of the chat page. Without it the page's forms do the same by plain POST.
(() => {
  "use strict";

  const page = document.getElementById("chat");
  const log = document.getElementById("log");
  const form = document.getElementById("ask");
  const question = document.getElementById("question");
  const send = document.getElementById("send");
  const agent = document.getElementById("agent");
  const collection = document.getElementById("collection");
  const status = document.getElementById("status");
  const expect = document.getElementById("expect");
  const token = form.querySelector("[name=csrfmiddlewaretoken]").value;
  const { conversation, queryUrl, feedbackUrl, pageUrl } = page.dataset;
  const EARLIER_TURNS = 6;
  let running = null; // the AbortController of the answer being written

  const element = (tag, className = "", text = "") => {
    const made = document.createElement(tag);
    made.className = className;
    made.textContent = text;
    return made;
  };

  const icon = (name) => {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("class", "icon");
    svg.setAttribute("aria-hidden", "true");
    const use = document.createElementNS(svg.namespaceURI, "use");
    use.setAttribute("href", `#i-${name}`);
    svg.append(use);
    return svg;
  };

  const notice = (kind, text, symbol = "warn") => {
    const box = element("div", `notice notice-${kind}`);
    box.append(icon(symbol), element("div", "", text));
    return box;
  };

  const say = (text) => { status.textContent = text; };

  // Whoever reads further up is left there.
  const atEnd = () => window.innerHeight + window.scrollY > document.documentElement.scrollHeight - 160;
  const toEnd = () => window.scrollTo(0, document.documentElement.scrollHeight);

  // Requests ----------------------------------------------------------------------------------------------------------

  const post = (url, body, signal) => fetch(url, {
    method: "POST",
    credentials: "same-origin",
    headers: { "Content-Type": "application/json", "X-CSRFToken": token, Accept: "application/json, text/event-stream" },
    body: JSON.stringify(body),
    signal,
  });

  async function problemOf(response) {
    try {
      return (await response.json()).error.message;
    } catch {
      if (response.status === 403) return "You are signed out. Reload the page and log in again.";
      return `The server answered ${response.status}. Try again in a moment.`;
    }
  }

  // Server-sent events of one response: calls on(name, data) for each.
  async function events(response, on) {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let buffer = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      buffer += value;
      let end;
      while ((end = buffer.indexOf("\n\n")) >= 0) {
        const block = buffer.slice(0, end);
        buffer = buffer.slice(end + 2);
        let name = "message";
        const data = [];
        for (const line of block.split("\n")) {
          if (line.startsWith("event:")) name = line.slice(6).trim();
          else if (line.startsWith("data:")) data.push(line.slice(5).trimStart());
        }
        if (data.length) on(name, JSON.parse(data.join("\n")));
      }
    }
  }

  // Asking ------------------------------------------------------------------------------------------------------------

  function earlierMessages() {
    const turns = [...log.querySelectorAll(".turn[data-answer]")].filter((turn) => turn.dataset.answer);
    const messages = [];
    let room = Number(page.dataset.earlierLimit); // characters that a request may carry; the newest turns go first
    for (const { dataset } of turns.slice(-EARLIER_TURNS).reverse()) {
      room -= dataset.question.length + dataset.answer.length;
      if (room < 0) break;
      messages.unshift({ role: "user", content: dataset.question }, { role: "assistant", content: dataset.answer });
    }
    return messages;
  }

  function newTurn(text) {
    const turn = element("article", "turn");
    turn.dataset.question = text;
    const asked = element("div", "asked");
    asked.append(element("p", "", text));
    asked.firstChild.prepend(element("span", "visually-hidden", "You asked: "));
    const reply = element("div", "reply");
    const head = element("div", "reply-head");
    const spent = element("span", "spent", "0.0 s");
    spent.setAttribute("aria-hidden", "true");
    head.append(element("span", "agent", "Choosing an agent"), spent);
    const waiting = element("p", "waiting");
    const dots = element("span", "dots");
    dots.append(element("i"), element("i"), element("i"));
    waiting.append(dots, element("span", "", expect.textContent.replace("Answers take", "This takes").replace(/ here\.$/, ".")));
    const prose = element("div", "prose streaming");
    reply.append(head, waiting, prose);
    turn.append(asked, reply);
    document.getElementById("welcome")?.remove();
    log.append(turn);
    toEnd();
    return { turn, reply, head, spent, waiting, prose };
  }

  function showRouting(parts, routed) {
    parts.head.querySelector(".agent").textContent = routed.agent;
    if (!parts.head.querySelector(".chip")) parts.spent.before(element("span", "chip", routed.category));
  }

  function showFailure(parts, message, text) {
    parts.waiting.remove();
    parts.prose.classList.remove("streaming");
    const box = notice("bad", message);
    box.setAttribute("role", "alert");
    const again = element("button", "", "Ask again");
    again.type = "button";
    again.prepend(icon("retry"));
    again.addEventListener("click", () => { parts.turn.remove(); ask(text); });
    parts.reply.append(box, again);
    if (parts.head.querySelector(".agent").textContent === "Choosing an agent") parts.head.querySelector(".agent").textContent = "No answer";
  }

  // The finished answer as the server renders it: sources, reason, rating form.
  async function showFinished(parts, interaction) {
    const response = await fetch(`${page.dataset.answerUrl.replace(conversation, interaction)}?conversation=${conversation}`, { credentials: "same-origin" });
    if (!response.ok) return null;
    const made = new DOMParser().parseFromString(await response.text(), "text/html").querySelector(".turn");
    if (!made) return null;
    const follow = atEnd();
    parts.turn.replaceWith(document.adoptNode(made));
    made.querySelectorAll("form.rate").forEach(showSlider);
    if (follow) toEnd();
    return made;
  }

  function setRunning(controller) {
    running = controller;
    send.replaceChildren(icon(controller ? "stop" : "send"), element("span", "", controller ? "Stop" : "Ask"));
    send.setAttribute("aria-label", controller ? "Stop this answer" : "Ask");
  }

  async function ask(text) {
    if (running) return;
    const messages = earlierMessages();
    const parts = newTurn(text);
    const controller = new AbortController();
    const begun = performance.now();
    const timer = setInterval(() => { parts.spent.textContent = `${((performance.now() - begun) / 1000).toFixed(1)} s`; }, 100);
    let interaction = null;
    let finished = false;
    let failure = null;
    let logged = false; // the failure stands in the log, so the server can show it
    setRunning(controller);
    say("Looking for an answer.");
    try {
      const body = { question: text, messages, session: `chat-${conversation}` };
      if (agent.value) body.agent = agent.value;
      if (collection) body.collection = collection.value;
      const response = await post(queryUrl, body, controller.signal);
      if (!response.ok) {
        failure = await problemOf(response);
      } else {
        await events(response, (name, data) => {
          if (name === "routing") {
            interaction = data.interaction_id;
            showRouting(parts, data);
          } else if (name === "delta") {
            const follow = atEnd();
            parts.waiting.remove();
            parts.prose.textContent += data.text;
            if (follow) toEnd();
          } else if (name === "done") {
            finished = true;
            interaction = data.interaction_id;
          } else if (name === "error") {
            failure = data.error.message;
            logged = Boolean(data.error.details?.interaction_id);
          }
        });
        if (!finished && !failure) failure = "The connection broke before the answer was complete.";
      }
    } catch (error) {
      failure = error.name === "AbortError" ? "Stopped." : "The server can't be reached. Is it running?";
    }
    clearInterval(timer);
    setRunning(null);
    if (interaction) remember(text);
    if (failure) {
      if (!logged || !(await showFinished(parts, interaction))) showFailure(parts, failure, text);
      say(`No answer: ${failure}`);
    } else {
      const made = await showFinished(parts, interaction);
      say(`Answer from ${parts.head.querySelector(".agent").textContent}: ${made?.dataset.answer ?? parts.prose.textContent}`);
      question.placeholder = "Ask a follow-up question";
    }
  }

  // The conversation gets its address and its place in the list with the first answered question.
  function remember(text) {
    if (location.pathname !== pageUrl) {
      history.replaceState(null, "", pageUrl);
      document.title = `${text.slice(0, 60)} · AdaptRAG`;
    }
    const nav = document.querySelector("#panel nav");
    if (!nav || nav.querySelector("[aria-current]")) return;
    let list = document.getElementById("past");
    if (!list) {
      list = element("ul");
      list.id = "past";
      nav.append(element("h2", "", "Your conversations"), list);
    }
    const item = element("li");
    const link = element("a", "past");
    link.href = pageUrl;
    link.setAttribute("aria-current", "page");
    link.append(element("span", "", text), element("time", "", "just now"));
    item.append(link);
    list.prepend(item);
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (running) return;
    const text = question.value.trim();
    if (!text) { question.focus(); return; }
    question.value = "";
    grow();
    ask(text);
    question.focus();
  });

  send.addEventListener("click", (event) => {
    if (!running) return;
    event.preventDefault();
    running.abort();
    question.focus();
  });

  question.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    if (!running) form.requestSubmit();
  });

  const grow = () => {
    if (CSS.supports("field-sizing", "content")) return;
    question.style.height = "auto";
    question.style.height = `${question.scrollHeight}px`;
  };
  question.addEventListener("input", grow);

  agent.addEventListener("change", () => {
    expect.textContent = agent.selectedOptions[0].dataset.expected;
  });

  // A failed question's "Ask again" in a conversation that the server rendered.
  log.addEventListener("submit", (event) => {
    if (!event.target.matches("form.retry")) return;
    event.preventDefault();
    if (running) return;
    const text = event.target.elements.question.value;
    event.target.closest(".turn").remove();
    ask(text);
  });

  // A citation opens the source that it names.
  log.addEventListener("click", (event) => {
    const cite = event.target.closest("a.cite");
    const source = cite && document.getElementById(cite.getAttribute("href").slice(1));
    if (!source) return;
    event.preventDefault();
    source.closest(".sources").open = true;
    source.open = true;
    source.querySelector("summary").focus();
  });

  // Rating ------------------------------------------------------------------------------------------------------------

  function showSlider(rate) {
    const slider = rate.elements.slider;
    const output = rate.querySelector("output");
    output.textContent = Number(slider.value).toFixed(2);
    slider.addEventListener("input", () => { output.textContent = Number(slider.value).toFixed(2); });
  }

  function outcome(response, data) {
    if (data.outcome === "unchanged") return "That is the rating you had given; nothing changed.";
    const begun = response.status === 201 ? "Saved." : "Your rating was replaced.";
    if (!data.arm) return `${begun} It moves no agent, because this answer was not part of the routing.`;
    const { agent: name, category, mean, pulls } = data.arm;
    return `${begun} ${name} now has a mean of ${mean.toFixed(2)} on ${category} questions, from ${pulls} rated answer${pulls === 1 ? "" : "s"}.`;
  }

  log.addEventListener("submit", async (event) => {
    const rate = event.target;
    if (!rate.matches("form.rate")) return;
    event.preventDefault();
    const pressed = event.submitter?.value ?? "slider";
    const reward = Number(pressed === "slider" ? rate.elements.slider.value : pressed);
    const line = rate.querySelector(".rated");
    const buttons = rate.querySelectorAll("button");
    buttons.forEach((button) => { button.disabled = true; });
    try {
      const response = await post(feedbackUrl, {
        interaction_id: rate.dataset.interaction,
        reward,
        correction: rate.elements.correction.value,
        comment: rate.elements.comment.value,
      });
      if (!response.ok) {
        line.replaceChildren(notice("bad", await problemOf(response)));
        return;
      }
      line.textContent = outcome(response, await response.json());
      rate.elements.slider.value = reward;
      rate.querySelector("output").textContent = reward.toFixed(2);
      rate.querySelectorAll(".thumb").forEach((thumb) => {
        thumb.setAttribute("aria-pressed", String(Number(thumb.value) === reward));
      });
    } catch {
      line.replaceChildren(notice("bad", "The server can't be reached, so the rating was not saved. Try again."));
    } finally {
      buttons.forEach((button) => { button.disabled = false; });
      event.submitter?.focus();
    }
  });

  document.querySelectorAll("form.rate").forEach(showSlider);
  if (location.hash.startsWith("#turn-")) document.getElementById(location.hash.slice(1))?.scrollIntoView({ block: "end" });
  else if (log.querySelector(".turn")) toEnd();
})();
