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

HELP = "/clear forgets the conversation, /system TEXT changes the system prompt, /exit leaves (so does Ctrl-D)"


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
) -> None:
    """Talk with a model in the terminal.

    Ctrl-C ends an answer, Ctrl-D or /exit the conversation, /help lists the commands. Piped input works too: each
    line is a message, each answer is printed.
    """
    from trivet.cli import terminal

    with terminal.load(
        model,
        max_model_len=max_model_len,
        kv_cache_dtype=kv_cache_dtype,
        threads=threads,
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
                print("\n/exit or Ctrl-D leaves")
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
        from trivet.cli import terminal

        system = [{"role": "system", "content": self._system}] if self._system else []
        question = {"role": "user", "content": line}
        try:
            prompt = self._llm.render_chat([*system, *self._messages, question])
            text, interrupted = terminal.write(self._llm.stream(prompt, self._params, add_special_tokens=False))
        except RequestError as error:
            if not self._interactive:
                raise
            terminal.errors.print(f"error: {error}; /clear starts anew", style="red")
            return
        if interrupted and not self._interactive:
            raise KeyboardInterrupt
        self._messages += [question, {"role": "assistant", "content": text}]
