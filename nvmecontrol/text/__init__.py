"""What commands print, as text: functions of values, without click."""
