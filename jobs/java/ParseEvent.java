package liveprofile;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.HashMap;
import java.util.HashSet;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.regex.Pattern;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonFactory;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonParser;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonToken;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.StreamReadConstraints;
import org.apache.flink.table.annotation.DataTypeHint;
import org.apache.flink.table.annotation.FunctionHint;
import org.apache.flink.table.data.GenericMapData;
import org.apache.flink.table.data.GenericRowData;
import org.apache.flink.table.data.MapData;
import org.apache.flink.table.data.RowData;
import org.apache.flink.table.data.StringData;
import org.apache.flink.table.data.binary.BinaryStringData;
import org.apache.flink.table.functions.TableFunction;

/**
 * PARSE_EVENT(payload, record_ms, types, clock_type, payload_chars, skew_ms): one row for a
 * payload, by sections 1 and 2 of docs/data-contract.md.
 *
 * <p>types: as liveprofile.attributes.event_types writes them. clock_type: the type that only
 * advances time. reason: why the record is rejected, NULL if it is not; then most other columns are
 * NULL. event_type: what the type of the event, event_name, counts as. properties: those that it
 * declares.
 */
@FunctionHint(
        output = @DataTypeHint(
                value = "ROW<reason STRING, detail STRING, event_id STRING, user_id STRING,"
                        + " event_type STRING, item_id STRING, category_id STRING,"
                        + " device_id STRING, coupon_id STRING, shop_id STRING, address_id STRING,"
                        + " amount DOUBLE, quantity DOUBLE, rating DOUBLE, lat DOUBLE, lon DOUBLE,"
                        + " event_ms BIGINT, event_name STRING, properties MAP<STRING, STRING>>",
                bridgedTo = RowData.class))
public class ParseEvent extends TableFunction<RowData> {
    static final JsonFactory JSON = JsonFactory.builder()
            // A table of names that senders choose could grow and collide.
            .disable(JsonFactory.Feature.CANONICALIZE_FIELD_NAMES)
            .streamReadConstraints(StreamReadConstraints.builder().maxNestingDepth(999).build())
            .build();

    private static final String[] IDS = {
        "event_id", "user_id", "event_type", "item_id", "category_id", "device_id", "coupon_id",
        "attributes.shop_id", "attributes.address_id"
    };
    private static final int EVENT_ID = 0, USER_ID = 1, EVENT_TYPE = 2, FIRST_TOKEN_ID = 3;
    private static final String[] NUMBERS = {
        "price", "quantity", "amount", "rating", "place.lat", "place.lon"
    };
    private static final int PRICE = 0, QUANTITY = 1, AMOUNT = 2;
    private static final double LIMIT = 1e9;
    private static final Pattern NUMBER =
            Pattern.compile("-?[0-9]+(\\.[0-9]+)?([eE][+-]?[0-9]+)?");
    private static final double[] LOWEST = {0, 0, -LIMIT, -LIMIT, -90, -180};
    private static final double[] HIGHEST = {LIMIT, LIMIT, LIMIT, LIMIT, 90, 180};
    private static final int MAX_NUMBER_CHARS = 1_000, MAX_ID_CHARS = 256, MAX_DETAIL_CHARS = 64;

    /** limits: the lowest and the highest number of each property; empty texts for a text. */
    private record Type(String role, Map<String, String[]> limits) {}

    private transient String typesText;
    private transient Map<String, Type> types;
    private transient Set<String> properties; // of any type

    /** The next token. Jackson counts the digits of a number, the contract its characters. */
    static JsonToken next(JsonParser in) throws IOException {
        JsonToken token = in.nextToken();
        if (token != null && token.isNumeric() && in.getTextLength() > MAX_NUMBER_CHARS) {
            throw new IOException("a number with too many characters");
        }
        return token;
    }

    /** Passes over the value of the current token. */
    static void skip(JsonParser in) throws IOException {
        for (int depth = 0; ; next(in)) {
            if (in.currentToken().isStructStart()) depth++;
            else if (in.currentToken().isStructEnd()) depth--;
            if (depth == 0) return;
        }
    }

    /** What the parser found in one payload. */
    private static final class Fields {
        final Value[] ids = new Value[IDS.length];
        final Value[] numbers = new Value[NUMBERS.length];
        final Map<String, Value> attributes = new HashMap<>();
        Value time;
    }

    /** A JSON value that is not null. text: of a scalar. */
    private record Value(JsonToken token, String text) {
        static Value of(JsonParser in) throws IOException {
            JsonToken token = in.currentToken();
            if (token.isStructStart()) {
                skip(in);
                return new Value(token, null);
            }
            if (token == JsonToken.VALUE_NULL) return null;
            String text = in.getText();
            boolean isZero = token == JsonToken.VALUE_NUMBER_INT && text.equals("-0");
            return new Value(token, isZero ? "0" : text);
        }

        /** Of a string or an integer, else "". */
        static String id(Value value) {
            boolean isId = value != null
                    && (value.token == JsonToken.VALUE_STRING
                            || value.token == JsonToken.VALUE_NUMBER_INT);
            return isId ? value.text : "";
        }

        /** Of a scalar, else "". */
        static String scalar(Value value) {
            return value == null || value.text == null ? "" : value.text;
        }
    }

    private static final class RejectedException extends Exception {
        final String reason, detail;

        RejectedException(String reason, String detail) {
            super(reason, null, false, false);
            this.reason = reason;
            this.detail = cut(detail, MAX_DETAIL_CHARS);
        }
    }

    public void eval(
            @DataTypeHint(value = "STRING", bridgedTo = StringData.class) StringData payload,
            Long recordMs,
            String typesText,
            String clockType,
            Integer payloadChars,
            Long skewMs) {
        if (!typesText.equals(this.typesText)) {
            this.typesText = typesText;
            types = new HashMap<>();
            properties = new HashSet<>();
            for (String each : typesText.split(";")) {
                String[] fields = each.split(",", -1);
                var limits = new TreeMap<String, String[]>();
                for (int i = 2; i < fields.length; i += 3) {
                    limits.put(fields[i], Arrays.copyOfRange(fields, i + 1, i + 3));
                }
                types.put(fields[0], new Type(fields[1], limits));
                properties.addAll(limits.keySet());
            }
        }
        var row = new GenericRowData(19);
        try {
            Fields fields = parse(payload, payloadChars);
            boolean isClock = clockType.equals(Value.scalar(fields.ids[EVENT_TYPE]));
            row.setField(16, checkedTime(fields, isClock, recordMs + skewMs));
            String name = Value.scalar(fields.ids[EVENT_TYPE]);
            Type type = types.get(name);
            if (!isClock) fill(row, fields, checkedNumbers(fields));
            row.setField(4, StringData.fromString(isClock ? clockType : type.role));
            row.setField(17, StringData.fromString(name));
            if (!isClock) row.setField(18, checkedProperties(fields, type));
        } catch (RejectedException rejected) {
            row.setField(0, StringData.fromString(rejected.reason));
            row.setField(1, StringData.fromString(rejected.detail));
        }
        collect(row);
    }

    private Fields parse(StringData payload, int payloadChars) throws RejectedException {
        if (payload == null) throw new RejectedException("NOT_JSON", "");
        byte[] bytes = payload.toBytes();
        if (bytes.length > payloadChars && ((BinaryStringData) payload).numChars() > payloadChars) {
            throw new RejectedException("TOO_LARGE", "");
        }
        String text = new String(bytes, StandardCharsets.UTF_8);
        boolean isDecoded = text.indexOf('\ufffd') < 0
                || Arrays.equals(text.getBytes(StandardCharsets.UTF_8), bytes);
        if (!isDecoded || hasLoneSurrogate(text)) throw new RejectedException("BAD_ENCODING", "");
        var fields = new Fields();
        try (JsonParser in = JSON.createParser(text)) {
            if (next(in) != JsonToken.START_OBJECT) throw new RejectedException("NOT_JSON", "");
            readObject(in, "", fields);
            if (next(in) != null) throw new RejectedException("NOT_JSON", "");
        } catch (IOException error) {
            throw new RejectedException("NOT_JSON", "");
        }
        return fields;
    }

    /** TRUE if an escape stands for half of a pair. Reads from the left: \\ud800 is no escape. */
    private static boolean hasLoneSurrogate(String text) {
        int highEnd = -1; // where the last high half ended
        for (int at = text.indexOf('\\'); at >= 0; at = text.indexOf('\\', at)) {
            int code = text.startsWith("u", at + 1) ? hexadecimal(text, at + 2) : -1;
            int end = at + (code < 0 ? 2 : 6);
            boolean isLow = code >= 0xDC00 && code <= 0xDFFF;
            if (isLow ? highEnd != at : highEnd >= 0) return true;
            highEnd = code >= 0xD800 && code <= 0xDBFF ? end : -1;
            at = end;
        }
        return highEnd >= 0;
    }

    /** The number of four hexadecimal digits, -1 for other text. */
    private static int hexadecimal(String text, int from) {
        if (from + 4 > text.length()) return -1;
        int code = 0;
        for (int at = from; at < from + 4; at++) {
            char letter = text.charAt(at);
            int digit = letter < 128 ? Character.digit(letter, 16) : -1;
            if (digit < 0) return -1;
            code = 16 * code + digit;
        }
        return code;
    }

    /** Of a name that occurs twice, the last value counts. */
    private void readObject(JsonParser in, String path, Fields fields) throws IOException {
        while (next(in) != JsonToken.END_OBJECT) {
            String own = in.currentName();
            String name = own.indexOf('.') >= 0 ? "" : path.isEmpty() ? own : path + own;
            JsonToken token = next(in);
            switch (name) {
                case "event_time" -> fields.time = Value.of(in);
                case "place", "attributes" -> {
                    String inside = name + ".";
                    clear(fields.ids, IDS, inside);
                    clear(fields.numbers, NUMBERS, inside);
                    if (name.equals("attributes")) fields.attributes.clear();
                    if (token == JsonToken.START_OBJECT) readObject(in, inside, fields);
                    else skip(in);
                }
                default -> {
                    int id = indexOf(IDS, name);
                    int number = id < 0 ? indexOf(NUMBERS, name) : -1;
                    if (id >= 0) fields.ids[id] = Value.of(in);
                    else if (number >= 0) fields.numbers[number] = Value.of(in);
                    else if (path.equals("attributes.") && properties.contains(own)) {
                        fields.attributes.put(own, Value.of(in));
                    }
                    else skip(in);
                }
            }
        }
    }

    private static void clear(Value[] values, String[] names, String inside) {
        for (int i = 0; i < names.length; i++) if (names[i].startsWith(inside)) values[i] = null;
    }

    private static int indexOf(String[] names, String name) {
        for (int i = 0; i < names.length; i++) if (names[i].equals(name)) return i;
        return -1;
    }

    /** Checks all but numbers. */
    private long checkedTime(Fields fields, boolean isClock, long latestMs)
            throws RejectedException {
        String type = Value.scalar(fields.ids[EVENT_TYPE]), time = Value.scalar(fields.time);
        for (int id = EVENT_ID; id <= USER_ID && !isClock; id++) {
            if (Value.id(fields.ids[id]).isEmpty()) {
                throw new RejectedException("MISSING_FIELD", IDS[id]);
            }
        }
        if (type.isEmpty()) throw new RejectedException("MISSING_FIELD", IDS[EVENT_TYPE]);
        if (time.isEmpty()) throw new RejectedException("MISSING_FIELD", "event_time");
        for (int id = EVENT_ID; id <= USER_ID && !isClock; id++) {
            if (isBadId(fields.ids[id].text)) throw new RejectedException("BAD_ID", IDS[id]);
        }
        if (!isClock && !types.containsKey(type)) throw new RejectedException("UNKNOWN_TYPE", type);
        long ms = EventTime.millis(Value.id(fields.time));
        if (ms < EventTime.EARLIEST_MS) throw new RejectedException("BAD_TIME", time);
        if (ms > latestMs) throw new RejectedException("FUTURE_TIME", time);
        return ms;
    }

    private static boolean isBadId(String id) {
        boolean isLong = id.codePointCount(0, id.length()) > MAX_ID_CHARS;
        return isLong || id.chars().anyMatch(ParseEvent::isControl);
    }

    /** Unicode's control characters, and those that change the direction of the text after them. */
    private static boolean isControl(int c) {
        boolean turns = c == 0x200e || c == 0x200f || c >= 0x202a && c <= 0x202e || c == 0x061c;
        return Character.isISOControl(c) || turns || c >= 0x2066 && c <= 0x2069;
    }

    /** The numbers, NULL where one is missing. */
    private static Double[] checkedNumbers(Fields fields) throws RejectedException {
        var numbers = new Double[NUMBERS.length];
        for (int i = 0; i < NUMBERS.length; i++) {
            Value value = fields.numbers[i];
            double number = value == null ? 0 : asNumber(value);
            if (!(number >= LOWEST[i] && number <= HIGHEST[i])) {
                throw new RejectedException("BAD_NUMBER", NUMBERS[i]);
            }
            if (value != null) numbers[i] = number;
            if (i == AMOUNT && value == null && product(numbers) > LIMIT) {
                throw new RejectedException("BAD_NUMBER", NUMBERS[i]);
            }
        }
        return numbers;
    }

    /** The properties that the event's type declares, as texts; NULL if it declares none. */
    private static MapData checkedProperties(Fields fields, Type type) throws RejectedException {
        if (type.limits.isEmpty()) return null;
        var found = new HashMap<StringData, StringData>();
        for (var property : type.limits.entrySet()) {
            String name = property.getKey(), low = property.getValue()[0], text;
            Value value = fields.attributes.get(name);
            if (low.isEmpty()) {
                text = tokenId(Value.id(value));
            } else {
                double number = value == null ? Double.NaN : asNumber(value);
                double high = Double.parseDouble(property.getValue()[1]);
                if (value != null && !(number >= Double.parseDouble(low) && number <= high)) {
                    throw new RejectedException("BAD_NUMBER", "attributes." + name);
                }
                text = value == null ? "" : Double.toString(number);
            }
            if (!text.isEmpty()) found.put(StringData.fromString(name), StringData.fromString(text));
        }
        return new GenericMapData(found);
    }

    /** NaN for a value that is no number. A text is a JSON number that may begin with zeros. */
    private static double asNumber(Value value) {
        boolean isText = value.token == JsonToken.VALUE_STRING;
        boolean isNumber = isText ? NUMBER.matcher(value.text).matches() : value.token.isNumeric();
        return isNumber ? Double.parseDouble(value.text) : Double.NaN;
    }

    private static double product(Double[] numbers) {
        if (numbers[PRICE] == null) return 0;
        return numbers[PRICE] * (numbers[QUANTITY] == null ? 1 : numbers[QUANTITY]);
    }

    private static void fill(GenericRowData row, Fields fields, Double[] numbers) {
        for (int i = 0; i < IDS.length; i++) {
            String text = Value.id(fields.ids[i]);
            row.setField(2 + i, StringData.fromString(i < FIRST_TOKEN_ID ? text : tokenId(text)));
        }
        row.setField(11, numbers[AMOUNT] == null ? product(numbers) : numbers[AMOUNT]);
        row.setField(12, numbers[QUANTITY]);
        for (int i = AMOUNT + 1; i < NUMBERS.length; i++) row.setField(10 + i, numbers[i]);
    }

    /** An id as tokens contain it: cut, and without the separators of tokens. */
    private static String tokenId(String id) {
        String cut = cut(id, MAX_ID_CHARS);
        for (int i = 0; i < cut.length(); i++) {
            if (cut.charAt(i) >= '\u001d' && cut.charAt(i) <= '\u001f') {
                return cut.replace('\u001d', '_').replace('\u001e', '_').replace('\u001f', '_');
            }
        }
        return cut;
    }

    private static String cut(String text, int chars) {
        boolean isLong = text.length() > chars && text.codePointCount(0, text.length()) > chars;
        return isLong ? text.substring(0, text.offsetByCodePoints(0, chars)) : text;
    }
}
