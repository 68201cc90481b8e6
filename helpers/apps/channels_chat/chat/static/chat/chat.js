// The page of the chat: one WebSocket, reopened when it breaks. No framework, nothing from elsewhere.
"use strict";

const LONGEST_PAUSE = 10_000; // milliseconds between two attempts to connect

const part = (id) => document.getElementById(id);
let socket = null;
let attempts = 0; // since the last time that it worked
let room = sessionStorage.getItem("room"); // the one on the screen
let here = new Set();

// The connection

function connect() {
  // Relative to the page, wherever it lies: at the root of a server, or behind a proxy's prefix.
  const address = new URL("ws/chat/", document.baseURI);
  address.protocol = address.protocol.replace("http", "ws");
  socket = new WebSocket(address);
  socket.onmessage = ({ data }) => {
    const event = JSON.parse(data);
    handlers[event.type]?.(event);
  };
  socket.onclose = ({ code }) => {
    if (code === 4401) {
      location.assign("login"); // the session has ended
      return;
    }
    // Twice as long each time, and not all clients at once when a server comes back.
    const pause = Math.min(LONGEST_PAUSE, 500 * 2 ** attempts) * (0.5 + Math.random() / 2);
    attempts += 1;
    state(`Not connected. Next attempt in ${Math.ceil(pause / 1000)} s`, false);
    setTimeout(connect, pause);
  };
}

function send(type, payload) {
  if (socket.readyState !== WebSocket.OPEN) {
    part("problem").textContent = "Not connected: the message was not sent.";
    return false;
  }
  socket.send(JSON.stringify({ v: 1, type, ...payload }));
  return true;
}

// What the server says

const handlers = {
  welcome(event) {
    attempts = 0;
    state("Connected", true);
    part("rooms").replaceChildren(...event.rooms.map(roomButton));
    if (event.rooms.some((one) => one.room === room)) send("join", { room });
  },
  joined(event) {
    if (room !== null && room !== event.room) send("leave", { room });
    room = event.room;
    sessionStorage.setItem("room", room);
    part("room").textContent = room;
    for (const button of part("rooms").querySelectorAll("button")) {
      button.setAttribute("aria-current", button.value === room);
    }
    part("messages").replaceChildren(...event.history.map(messageItem));
    scroll();
    here = new Set(event.here);
    showHere();
    part("text").focus();
  },
  left() {},
  message(event) {
    if (event.room === room) add(messageItem(event));
  },
  whisper(event) {
    const item = line(event.from, `(to ${event.to} only) ${event.text}`);
    item.className = "whisper";
    add(item);
  },
  arrived(event) {
    if (event.room !== room) return;
    here.add(event.name);
    showHere();
    add(note(`${event.name} has arrived`));
  },
  departed(event) {
    if (event.room !== room) return;
    here.delete(event.name);
    showHere();
    add(note(`${event.name} has left`));
  },
  error(event) {
    part("problem").textContent = event.message;
  },
};

// What the page shows. Only ever textContent: HTML in a message is shown, not obeyed.

function element(tag, text, className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = className;
  return made;
}

function line(name, text) {
  const item = document.createElement("li");
  item.append(element("span", name, "name"), `: ${text}`);
  return item;
}

function messageItem(message) {
  const item = line(message.from, message.text);
  item.dataset.id = message.id;
  const at = new Date(message.at);
  const time = element("time", at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }));
  time.dateTime = message.at;
  item.append(time);
  return item;
}

function note(text) {
  return element("li", text, "note");
}

function add(item) {
  const log = part("messages");
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  // What several processes serve may arrive in another order: the ids are the room's.
  const after = [...log.children].find((other) => Number(other.dataset.id) > Number(item.dataset.id));
  log.insertBefore(item, after ?? null);
  if (atEnd) scroll(); // not while somebody reads further up
}

function scroll() {
  part("messages").scrollTop = part("messages").scrollHeight;
}

function roomButton(one) {
  const item = document.createElement("li");
  const button = element("button", one.private ? `${one.room} (private)` : one.room);
  button.type = "button";
  button.value = one.room;
  button.setAttribute("aria-current", one.room === room);
  button.onclick = () => send("join", { room: one.room });
  item.append(button);
  return item;
}

function showHere() {
  const names = [...here].sort();
  part("here").replaceChildren(...names.map((name) => element("li", name)));
  const chosen = part("to").value;
  const options = names.map((name) => new Option(`${name} only`, name, false, name === chosen));
  part("to").replaceChildren(new Option("everyone here", ""), ...options);
  part("to").value = here.has(chosen) ? chosen : "";
}

function state(text, connected) {
  part("state").textContent = text;
  part("state").classList.toggle("connected", connected);
}

part("say").onsubmit = (submitted) => {
  submitted.preventDefault();
  part("problem").textContent = "";
  const text = part("text").value;
  const to = part("to").value;
  const sent = to ? send("whisper", { to, text }) : send("say", { room: room ?? "", text });
  if (sent) part("text").value = "";
};

connect();
