package liveprofile;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.time.DateTimeException;
import java.time.LocalDateTime;
import java.time.ZoneOffset;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonParser;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonToken;
import org.apache.flink.table.annotation.DataTypeHint;
import org.apache.flink.table.data.StringData;
import org.apache.flink.table.functions.ScalarFunction;

/**
 * EVENT_TIME(payload, field, latest_ms, no_time): the time in a field of a JSON object, in ms since
 * 1970. no_time if there is none, or if it is later than latest_ms.
 */
public class EventTime extends ScalarFunction {
    static final long EARLIEST_MS = 946_684_800_000L; // 2000-01-01
    private static final long NO_TIME = Long.MIN_VALUE;
    private static final int MAX_DIGITS = 15, MAX_ZONE_MINUTES = 18 * 60;
    private static final Pattern ISO_8601 = Pattern.compile(
            "([0-9]{4})-([0-9]{2})-([0-9]{2})[T ]([0-9]{2}):([0-9]{2})"
                    + "(?::([0-9]{2})(?:\\.([0-9]+))?)?(?:Z|([+-])([0-9]{2}):?([0-5][0-9]))?");

    public Long eval(
            @DataTypeHint(value = "STRING", bridgedTo = StringData.class) StringData payload,
            String field,
            Long latestMs,
            Long noTime) {
        if (payload == null) return noTime;
        String text = new String(payload.toBytes(), StandardCharsets.UTF_8);
        long ms = NO_TIME;
        try (JsonParser in = ParseEvent.JSON.createParser(text)) {
            if (ParseEvent.next(in) != JsonToken.START_OBJECT) return noTime;
            while (ParseEvent.next(in) != JsonToken.END_OBJECT) {
                boolean isField = field.equals(in.currentName());
                JsonToken token = ParseEvent.next(in);
                if (isField) {
                    boolean isText = token == JsonToken.VALUE_STRING
                            || token == JsonToken.VALUE_NUMBER_INT;
                    ms = isText ? millis(in.getText()) : NO_TIME;
                }
                ParseEvent.skip(in);
            }
        } catch (IOException error) {
            return noTime;
        }
        return ms == NO_TIME || ms > latestMs ? noTime : (Long) ms;
    }

    /** Of digits or ISO 8601, NO_TIME for other text. */
    static long millis(String text) {
        int length = text.length();
        if (length >= 1 && length <= MAX_DIGITS) {
            long ms = 0;
            int i = 0;
            for (; i < length && text.charAt(i) >= '0' && text.charAt(i) <= '9'; i++) {
                ms = 10 * ms + text.charAt(i) - '0';
            }
            if (i == length) return ms;
        }
        Matcher parts = ISO_8601.matcher(text);
        if (!parts.matches()) return NO_TIME;
        int zone = number(parts, 9) * 60 + number(parts, 10);
        if (zone > MAX_ZONE_MINUTES) return NO_TIME;
        try {
            var time = LocalDateTime.of(number(parts, 1), number(parts, 2), number(parts, 3),
                    number(parts, 4), number(parts, 5), number(parts, 6));
            long seconds = time.toEpochSecond(ZoneOffset.UTC);
            seconds -= ("-".equals(parts.group(8)) ? -60L : 60L) * zone;
            String fraction = parts.group(7) == null ? "" : parts.group(7);
            return seconds * 1_000 + Integer.parseInt((fraction + "000").substring(0, 3));
        } catch (DateTimeException error) {
            return NO_TIME;
        }
    }

    private static int number(Matcher parts, int group) {
        return parts.group(group) == null ? 0 : Integer.parseInt(parts.group(group));
    }
}
