"""`trivet chat`: talk with a model."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from trivet.cli import options
from trivet.errors import RequestError

if TYPE_CHECKING:
    from trivet.api.llm import LLM
    from trivet.sampling.params import SamplingParams

ANSWER_SHARE = 4
"""One part in so many of the context is kept for an answer."""
HELP = "/clear starts anew, /system TEXT sets the system prompt, /exit or Ctrl-D leaves"


def chat(
    model: options.Model = None,
    system: Annotated[
        str | None, typer.Option("--system-prompt", "--system", help="What the model is told first.")
    ] = None,
    max_tokens: Annotated[
        int,
        typer.Option("--max-tokens", "--n-predict", "-n", metavar="N", help="Longest answer; -1 is as many as fit."),
    ] = -1,
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    top_k: options.TopK = None,
    min_p: options.MinP = None,
    typical_p: options.TypicalP = None,
    repetition_penalty: options.RepetitionPenalty = None,
    frequency_penalty: options.FrequencyPenalty = None,
    presence_penalty: options.PresencePenalty = None,
    seed: options.Seed = None,
    stop: options.Stop = None,
    chat_template: options.ChatTemplate = None,
    max_model_len: options.ContextSize = None,
    kv_cache_dtype: options.CacheDtype = "auto",
    threads: options.Threads = 0,
    device: options.Device = "auto",
) -> None:
    """Talk with a model in the terminal.

    Ctrl-C ends an answer, Ctrl-D or /exit the conversation, /help lists the commands. Piped input works too: each
    line is a message, each answer is printed.
    """
    from trivet.cli import session

    with session.load(
        model,
        max_model_len=max_model_len,
        kv_cache_dtype=kv_cache_dtype,
        threads=threads,
        device=device,
        chat_template=chat_template,
    ) as llm:
        params = options.sampling(
            llm.recommended_params,
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            min_p=min_p,
            typical_p=typical_p,
            repetition_penalty=repetition_penalty,
            frequency_penalty=frequency_penalty,
            presence_penalty=presence_penalty,
            seed=seed,
            stop=stop,
        )
        Conversation(llm, params, system).run()


class Conversation:
    """The messages so far, and what a line typed by the user does to them."""

    def __init__(self, llm: LLM, params: SamplingParams, system: str | None) -> None:
        self._llm = llm
        self._params = params
        self._system = system
        self._messages: list[dict[str, str]] = []
        self._interactive = sys.stdin.isatty()
        llm.render_chat([{"role": "user", "content": "Hello"}])  # says at once when there is no template

    def run(self) -> None:
        """Read lines until the end."""
        if self._interactive:
            import readline  # noqa: F401  # gives `input` editing and history

            print(HELP)
        while True:
            try:
                line = input("> " if self._interactive else "").strip()
            except EOFError:
                break
            except KeyboardInterrupt:
                print("\n(/exit or Ctrl-D leaves)")
                continue
            if line in ("/exit", "/quit"):
                return
            if line.startswith("/"):
                print(self._command(line))
            elif line:
                self._answer(line)
        if self._interactive:
            print()

    def _command(self, line: str) -> str:
        """Obey, and say what was done."""
        name, _, rest = line.partition(" ")
        if name == "/clear":
            self._messages.clear()
            return "(a new conversation)"
        if name == "/system":
            self._system = rest.strip() or None
            return f"(the system prompt is now: {self._system})" if self._system else "(no system prompt)"
        return HELP if name == "/help" else f"no command {name}: {HELP}"

    def _answer(self, line: str) -> None:
        from trivet.cli import session

        question = {"role": "user", "content": line}
        try:
            prompt = self._prompt(question)
            text, interrupted = session.write(self._llm.stream(prompt, self._params, add_special_tokens=False))
        except RequestError as error:
            if not self._interactive:
                raise
            from trivet.cli import terminal

            terminal.errors.print(f"error: {error}", style="red")
            return
        if interrupted and not self._interactive:
            raise KeyboardInterrupt
        self._messages += [question, {"role": "assistant", "content": text}]

    def _prompt(self, question: dict[str, str]) -> str:
        """The conversation, less its oldest exchanges where they leave too little room for an answer."""
        system = [{"role": "system", "content": self._system}] if self._system else []
        context = self._llm.info.max_model_len
        room = context // ANSWER_SHARE
        encode = self._llm.get_tokenizer().encode
        forgotten = 0
        while True:
            prompt = self._llm.render_chat([*system, *self._messages, question])
            if not self._messages or len(encode(prompt, add_special=False)) + room <= context:
                break
            del self._messages[:2]
            forgotten += 2
        if forgotten:
            from trivet.cli import terminal

            terminal.errors.print(f"(the oldest {forgotten} messages no longer fit and are forgotten)", style="dim")
        return prompt
