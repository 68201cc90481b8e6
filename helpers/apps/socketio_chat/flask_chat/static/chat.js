// The page of the chat, over the JavaScript client of Socket.IO, which comes in a script of its own. No framework.
"use strict";

const part = (id) => document.getElementById(id);
const { transports } = document.currentScript.dataset;
let socket = null;
let room = sessionStorage.getItem("room"); // the one on the screen
let here = new Set();

// The connection. Socket.IO's client opens it again by itself when it breaks; not when the server has ended it.

function connect() {
  if (typeof io === "undefined") {
    state("No client of Socket.IO: neither npm (run `make setup`) nor the internet has brought it", false);
    return;
  }
  // Relative to the page, wherever it lies: at the root of a server, or behind a proxy's prefix.
  const { origin, pathname } = new URL("socket.io", document.baseURI);
  socket = io(origin, {
    path: pathname,
    transports: transports.split(","),
    reconnectionDelay: 500, // milliseconds; twice as long each time, and not all clients at once
    reconnectionDelayMax: 10_000,
  });
  for (const [type, handler] of Object.entries(handlers)) socket.on(type, handler);
  socket.on("connect_error", (error) => {
    if (error.data?.code === 4401) location.assign("login");
    else state("Not connected. It will be tried again", false);
  });
  socket.on("disconnect", (reason) => {
    state("Not connected. It will be tried again", false);
    if (reason === "io server disconnect") setTimeout(() => socket.connect(), 1000);
  });
}

function send(type, payload) {
  if (!socket?.connected) { // Socket.IO would keep it, and send it when somebody else has long answered
    part("problem").textContent = "Not connected: the message was not sent.";
    return false;
  }
  socket.emit(type, { v: 1, ...payload });
  return true;
}

// What the server says

const handlers = {
  welcome(event) {
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
  said(event) {
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
  ended(event) {
    if (event.code === 4401) location.assign("login");
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
