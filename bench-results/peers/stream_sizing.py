"""What a stream of so many images a second asks of broker, table, network, processors and cards: stream_sizing.py --help

    python3 stream_sizing.py --items-per-s 180 --cores 2 --bytes-per-image 110000 ... > table.md

It multiplies what one worker, one broker and one table were measured to do (`galley bench stream` says most of it), and measures
nothing. What was not measured stands as `?` in the table: no figure here is a default.
"""

import argparse
import math

MEASURED = {
    "items-per-s": "rows a second of one worker, from the broker to the table, steady",
    "cores": "its processor's cores",
    "card-items-per-s": "what a card takes of the model alone; without it there are no cards",
    "cpu-items-per-core-s": "inputs that a core fetches, decodes and resizes a second, where a card runs the model",
    "bytes-per-image": "an input's bytes, on average",
    "message-bytes": "a message's bytes in the stream (nats stream info: bytes over messages)",
    "row-bytes": "a row's bytes in the table, its index included (pg_total_relation_size over rows)",
    "publishes-per-s": "messages a second that the broker takes, at its copies and with sync_interval always",
    "acks-per-s": "messages a second that it delivers and sees acknowledged",
    "table-rows-per-s": "rows a second that the table commits, by as many writers as there are workers",
    "seconds-in-hand": "from a message's delivery to its row's commit, mean (galley_stream_duration_seconds, total)",
    "price-per-hour": "of a worker's machine",
}
OUT = 65_536  # the consumer's max_ack_pending


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=10_000, help="images a second that are wanted")
    parser.add_argument("--workers", type=int, default=50, help="how many may run")
    parser.add_argument("--copies", type=int, default=3, help="of each message, on as many servers")
    parser.add_argument("--backlog-hours", type=float, default=24, help="what the broker is to keep if no worker runs")
    for name, what in MEASURED.items():
        parser.add_argument(f"--{name}", type=float, metavar="MEASURED", help=what)
    args = parser.parse_args()
    print(f"{args.rate:,.0f} images a second, {args.workers} workers, {args.copies} copies of a message.\n")
    print("| what | asked for | measured | so |\n| --- | --- | --- | --- |")
    for row in rows(args):
        print("| " + " | ".join(row) + " |")


def known(figure, text, of=lambda value: value):
    return "?" if figure is None else text.format(of(figure))


def share(needed, measured):
    return known(measured, "{:.0%} of it", lambda measured: needed / measured)


def parts(needed, measured):
    """The same, and how many of them it takes if none is to be used beyond 70 %."""
    return share(needed, measured) + (f", so {math.ceil(needed / measured / 0.7)}" if measured and needed > 0.7 * measured else "")


def rows(args):
    rate, each = args.rate, args.rate / args.workers
    yield "a worker", f"{each:,.0f} rows/s", known(args.items_per_s, "{:,.0f} rows/s"), share(each, args.items_per_s)
    if args.items_per_s:
        needed = math.ceil(rate / args.items_per_s)
        spare = args.workers - needed
        verdict = f"{spare} may be missing" if spare >= 0 else f"{-spare} more than there are"
        yield "workers", f"{needed}", "", verdict
        yield "processors", known(args.cores, "{:,.0f} cores", lambda cores: cores * needed), known(args.cores, "{:g} a worker"), ""
    else:
        yield "workers", "?", "", ""
    if args.card_items_per_s:
        cards = math.ceil(rate / args.card_items_per_s)
        yield "cards, by the model alone", f"{cards}", f"{args.card_items_per_s:,.0f} items/s", ""
        cores = known(args.cpu_items_per_core_s, "{:,.0f} cores", lambda items: math.ceil(rate / items))
        beside = known(args.cpu_items_per_core_s, "{:,.0f} a card, to keep it busy", lambda items: args.card_items_per_s / items)
        yield "cores that decode for them", cores, known(args.cpu_items_per_core_s, "{:,.0f} items/s a core"), beside
    bits = known(args.bytes_per_image, "{:.2f} Gbit/s", lambda size: size * rate * 8 / 1e9)
    one = known(args.bytes_per_image, "{:.0f} Mbit/s a worker", lambda size: size * each * 8 / 1e6)
    yield "network, images in", bits, known(args.bytes_per_image, "{:,.0f} bytes an image"), one
    yield "broker, published", f"{rate:,.0f}/s", known(args.publishes_per_s, "{:,.0f}/s"), parts(rate, args.publishes_per_s)
    yield "broker, delivered and acknowledged", f"{rate:,.0f}/s", known(args.acks_per_s, "{:,.0f}/s"), parts(rate, args.acks_per_s)
    size = known(args.message_bytes, "{:,.0f} bytes a message")
    # Published to one server, sent to the other copies, delivered to a worker.
    flow = known(args.message_bytes, "{:.1f} MB/s", lambda size: size * rate * (args.copies + 1) / 1e6)
    yield "broker, its network", flow, size, ""
    kept = known(args.message_bytes, "{:,.0f} GB a server", lambda size: size * rate * args.backlog_hours * 3600 / 1e9)
    yield f"broker, {args.backlog_hours:g} h without workers", kept, size, ""
    hand = known(args.seconds_in_hand, "{:,.0f} messages", lambda seconds: seconds * rate)
    full = known(args.seconds_in_hand, "{:.0%} of max_ack_pending", lambda seconds: seconds * rate / OUT)
    yield "in hand", hand, known(args.seconds_in_hand, "{:.2f} s"), full
    yield "table, rows", f"{rate:,.0f}/s", known(args.table_rows_per_s, "{:,.0f}/s"), parts(rate, args.table_rows_per_s)
    day = known(args.row_bytes, "{:,.0f} GB a day", lambda size: size * rate * 86_400 / 1e9)
    yield "table, disk", day, known(args.row_bytes, "{:,.0f} bytes a row"), ""
    if args.price_per_hour is not None:
        million = args.price_per_hour / args.items_per_s / 3600 * 1e6 if args.items_per_s else None
        yield "price", known(million, "{:.2f} a million images"), f"{args.price_per_hour:g} an hour", "workers alone"


main()
